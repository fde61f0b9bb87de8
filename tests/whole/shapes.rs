//! Shape rules, over every case of every op.

use convoy::ops::case::Case;
use convoy::ops::{Array, Op};
use convoy::tensor::{Tensor, TensorType};
use rayon::prelude::*;

/// The shape rule says what the reference does, and the reference is finite on every fixed case but the one of a mistake.
#[test]
fn shape_rules_agree_with_the_reference() {
    let check = |case: Case| {
        let inputs = case.tensors(1);
        let given: Vec<Array> = inputs.iter().map(Array::from).collect();
        let outputs = case.op.reference(&given);
        let label = case.label();
        let types: Vec<TensorType> = inputs.iter().map(Tensor::ty).collect();
        let inferred = case.op.infer(&types).unwrap_or_else(|e| panic!("{label}: {e}"));
        let shapes: Vec<_> = inferred.iter().map(|ty| &ty.shape).collect();
        assert_eq!(shapes, outputs.iter().map(|a| &a.shape).collect::<Vec<_>>(), "{label}");
        let finite = |arrays: &[Array]| arrays.iter().all(|array| array.data.iter().all(|v| v.is_finite()));
        let expected = label != "cross_entropy [labels beyond the classes]";
        if finite(&given) {
            assert_eq!(finite(&outputs), expected, "{label}: whether the reference is finite");
        }
    };
    Op::all_cases().into_par_iter().for_each(check);
}

/// A wrong number of inputs, of dimensions or a wrong element type is an error of the shape rule, never a panic.
#[test]
fn shape_rules_refuse_what_does_not_fit() {
    use convoy::tensor::{DType, Shape};
    for case in &Op::all_cases() {
        let types: Vec<TensorType> = case.inputs.iter().map(|i| i.ty.clone()).collect();
        let label = case.label();
        for n in 0..types.len() {
            let mut fewer = types.clone();
            fewer.remove(n);
            assert!(case.op.infer(&fewer).is_err(), "{label}: took {} inputs", fewer.len());
            let mut other = types.clone();
            other[n].dtype = if types[n].dtype == DType::F32 { DType::U32 } else { DType::F32 };
            if case.op.name() != "reshape" {
                assert!(case.op.infer(&other).is_err(), "{label}: took {:?} as input {n}", other[n].dtype);
            }
            for shape in [vec![], vec![7], vec![3, 5, 7], vec![0, 0, 0, 0], vec![1; 6]] {
                let mut odd = types.clone();
                odd[n].shape = Shape::from(shape);
                let _ = case.op.infer(&odd); // may fit some ops; must not panic
            }
        }
        let more: Vec<TensorType> = types.iter().cloned().chain([TensorType::f32([1])]).collect();
        assert!(case.op.infer(&more).is_err(), "{label}: took one input too many");
    }
}
