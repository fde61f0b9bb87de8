//! Every case of every op, on every backend, against the op's f64 reference.

mod common;

use std::sync::LazyLock;

use convoy::backend::Device;
use convoy::backend::wgpu::WgpuOptions;
use convoy::ops::case::Case;
use convoy::ops::{Array, Op};
use convoy::tensor::{Tensor, TensorType};
use rayon::prelude::*;

/// A case with its inputs' values and what the reference makes of them.
struct Expected {
    case: Case,
    inputs: Vec<Tensor>,
    outputs: Vec<Array>,
}

/// All cases, evaluated once for all backends.
static EXPECTED: LazyLock<Vec<Expected>> = LazyLock::new(|| {
    let evaluate = |case: Case| {
        let inputs = case.tensors(1);
        let outputs = case.op.reference(&inputs.iter().map(Array::from).collect::<Vec<_>>());
        Expected { case, inputs, outputs }
    };
    Op::all_cases().into_par_iter().map(evaluate).collect()
});

/// Runs every case on `device`; one message per wrong output.
fn check_all(device: &mut dyn Device) {
    let mut failures = Vec::new();
    for Expected { case, inputs, outputs } in EXPECTED.iter() {
        let label = common::label(case);
        match common::run_case(device, case, inputs) {
            Err(message) => failures.push(format!("{label}: {message}")),
            Ok(found) => {
                for (n, (got, expected)) in found.iter().zip(outputs).enumerate() {
                    if *got.shape() != expected.shape {
                        failures.push(format!("{label}: output {n} is {}, expected {}", got.shape(), expected.shape));
                    }
                    let what = format!("{label}: output {n}");
                    failures
                        .extend(common::compare(&what, &common::as_f64(got), &expected.data, case.tolerance()).err());
                }
            }
        }
    }
    common::assert_none(failures);
}

#[test]
fn cpu_agrees_with_the_reference() {
    check_all(&mut *common::cpu());
}

#[test]
fn gpu_agrees_with_the_reference() {
    check_all(&mut *common::gpu());
}

/// The kernels that GPUs use, also where the device under test is software and has kernels of its own.
#[test]
fn kernels_for_gpus_agree_with_the_reference() {
    check_all(&mut *common::gpu_with(WgpuOptions { poison: true, gpu_kernels: true, ..WgpuOptions::default() }));
}

/// The shape rule says what the reference does, and the reference is finite on every case.
#[test]
fn shape_rules_agree_with_the_reference() {
    for Expected { case, inputs, outputs } in EXPECTED.iter() {
        let label = common::label(case);
        let types: Vec<TensorType> = inputs.iter().map(Tensor::ty).collect();
        let inferred = case.op.infer(&types).unwrap_or_else(|e| panic!("{label}: {e}"));
        let shapes: Vec<_> = inferred.iter().map(|ty| &ty.shape).collect();
        assert_eq!(shapes, outputs.iter().map(|a| &a.shape).collect::<Vec<_>>(), "{label}");
        assert!(outputs.iter().all(|a| a.data.iter().all(|v| v.is_finite())), "{label}: the reference is not finite");
    }
}

/// A wrong number of inputs, of dimensions or a wrong element type is an error of the shape rule, never a panic.
#[test]
fn shape_rules_refuse_what_does_not_fit() {
    use convoy::tensor::{DType, Shape};
    for case in &Op::all_cases() {
        let types: Vec<TensorType> = case.inputs.iter().map(|i| i.ty.clone()).collect();
        let label = common::label(case);
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
