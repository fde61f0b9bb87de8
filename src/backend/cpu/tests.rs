//! Every case of every op against its f64 reference, on several numbers of threads.

use super::CpuDevice;
use crate::backend::Device;
use crate::graph::{Graph, Role};
use crate::ops::case::Case;
use crate::ops::{Array, Op};
use crate::tensor::Tensor;

/// The outputs of a case's op on `threads` threads.
fn run(case: &Case, inputs: &[Tensor], threads: usize) -> Vec<Tensor> {
    let mut graph = Graph::new();
    let source = |(i, tensor): (usize, &Tensor)| graph.source(&format!("input {i}"), tensor.ty(), Role::Input).unwrap();
    let values: Vec<_> = inputs.iter().enumerate().map(source).collect();
    let outputs = graph.apply_all("case", case.op.clone(), &values).unwrap();
    let mut program = CpuDevice::new(Some(threads)).unwrap().compile(&graph, &outputs).unwrap();
    for (value, tensor) in values.iter().zip(inputs) {
        program.write(*value, tensor).unwrap();
    }
    let ticket = program.submit().unwrap();
    program.outputs(ticket, true).unwrap().unwrap()
}

/// The first element beyond the tolerance.
fn difference(got: &Tensor, want: &Array, (atol, rtol): (f64, f64)) -> Option<String> {
    assert_eq!(got.shape(), &want.shape);
    let pairs = Array::from(got).data.into_iter().zip(&want.data).enumerate();
    pairs.into_iter().find_map(|(i, (got, want))| {
        let close = (got - want).abs() <= atol + rtol * want.abs();
        (!close).then(|| format!("element {i}: got {got}, want {want}"))
    })
}

#[test]
fn agrees_with_the_reference_on_any_number_of_threads() {
    let mut failures = Vec::new();
    for case in Op::all_cases() {
        let inputs = case.tensors(7);
        let reference = case.op.reference(&inputs.iter().map(Array::from).collect::<Vec<_>>());
        let outputs = run(&case, &inputs, 1);
        for (i, (got, want)) in outputs.iter().zip(&reference).enumerate() {
            if let Some(difference) = difference(got, want, case.tolerance()) {
                failures.push(format!("{} ({}), output {i}: {difference}", case.op.name(), case.name));
            }
        }
        for threads in [2, 3] {
            if run(&case, &inputs, threads) != outputs {
                failures.push(format!("{} ({}): {threads} threads give other bits", case.op.name(), case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
