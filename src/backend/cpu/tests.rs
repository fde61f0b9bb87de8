//! Every case of every op against its f64 reference.

use super::CpuDevice;
use crate::backend::Device;
use crate::graph::{Graph, Role};
use crate::ops::{Array, Op};

/// Elements beyond the tolerance, by index; finiteness counts.
fn worst(got: &[f32], want: &[f64], (atol, rtol): (f64, f64)) -> Option<String> {
    got.iter().zip(want).enumerate().find_map(|(i, (&got, &want))| {
        let close = (got as f64 - want).abs() <= atol + rtol * want.abs() || (got.is_nan() && want.is_nan());
        (!close).then(|| format!("element {i}: got {got}, want {want}"))
    })
}

fn check(threads: usize) {
    let mut failures = Vec::new();
    for case in Op::all_cases() {
        let tensors = case.tensors(7);
        let reference = case.op.reference(&tensors.iter().map(Array::from).collect::<Vec<_>>());
        let mut device = CpuDevice::new(Some(threads)).unwrap();
        let mut graph = Graph::new();
        let inputs: Vec<_> = tensors
            .iter()
            .enumerate()
            .map(|(i, tensor)| graph.source(&format!("input {i}"), tensor.ty(), Role::Input).unwrap())
            .collect();
        let outputs = graph.apply_all("case", case.op.clone(), &inputs).unwrap();
        let mut program = device.compile(&graph, &outputs).unwrap();
        for (input, tensor) in inputs.iter().zip(&tensors) {
            program.write(*input, tensor).unwrap();
        }
        let ticket = program.submit().unwrap();
        for (i, (got, want)) in program.outputs(ticket, true).unwrap().unwrap().iter().zip(&reference).enumerate() {
            assert_eq!(got.shape(), &want.shape);
            if let Some(worst) = worst(Array::from(got).data.iter().map(|&v| v as f32).collect::<Vec<_>>().as_slice(), &want.data, case.tolerance()) {
                failures.push(format!("{} ({}), output {i}: {worst}", case.op.name(), case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn agrees_with_the_reference() {
    check(2);
}

#[test]
fn agrees_with_the_reference_on_three_threads() {
    check(3);
}
