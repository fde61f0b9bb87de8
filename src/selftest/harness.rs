//! Graphs of one op, and a step of them on memory that holds NaN.

use std::collections::HashMap;

use crate::backend::Device;
use crate::error::Result;
use crate::graph::{Graph, Role, ValueId};
use crate::ops::Op;
use crate::ops::case::Case;
use crate::tensor::{Data, Tensor, TensorType};

/// A graph of one op.
pub struct OneOp {
    /// The graph.
    pub graph: Graph,
    /// The op's inputs.
    pub inputs: Vec<ValueId>,
    /// The op's outputs.
    pub outputs: Vec<ValueId>,
}

impl OneOp {
    /// `op` on sources named by `label`. What it updates in place is a parameter, as in a training graph; the rest are
    /// inputs. A device keeps parameters by name, so labels differ where one device runs several graphs.
    ///
    /// # Errors
    /// What the op's shape rule says.
    pub fn new(label: &str, op: &Op, types: &[TensorType]) -> Result<OneOp> {
        let mut graph = Graph::new();
        let inputs = types
            .iter()
            .enumerate()
            .map(|(n, ty)| {
                let role = if updates(op, n) { Role::Parameter } else { Role::Input };
                graph.source(&format!("{label} input.{n}"), ty.clone(), role)
            })
            .collect::<Result<Vec<_>>>()?;
        let outputs = graph.apply_all(label, op.clone(), &inputs)?;
        Ok(OneOp { graph, inputs, outputs })
    }
}

/// Whether `op` overwrites its input `n` (an optimizer its weight; a view only shares memory).
pub fn updates(op: &Op, n: usize) -> bool {
    !matches!(op, Op::Reshape(_)) && op.aliases().iter().any(|&(_, input)| input == n)
}

/// Runs a step of `graph` on `device` with these values for its sources, and returns the outputs.
///
/// A first step on NaN leaves NaN in all memory of the program: what a kernel forgets to write, or reads beyond an
/// input's end, shows in the second. The third must repeat the second to the bit. Inputs must come out of a step as they
/// went in.
///
/// # Errors
/// What went wrong, in words.
pub fn run(
    device: &mut dyn Device,
    graph: &Graph,
    given: &HashMap<ValueId, Tensor>,
    outputs: &[ValueId],
) -> Result<Vec<Tensor>, String> {
    let text = |e: crate::Error| e.to_string();
    let resident = |v: &ValueId| matches!(graph[*v].role, Role::Parameter | Role::State);
    for (v, tensor) in given.iter().filter(|(v, _)| resident(v)) {
        device.set(&graph[*v].name, &poisoned(tensor)).map_err(text)?;
    }
    let inputs: Vec<ValueId> = graph.with_role(Role::Input).collect();
    let read: Vec<ValueId> = outputs.iter().chain(&inputs).copied().collect();
    let mut program = device.compile(graph, &read).map_err(text)?;
    if let [why, ..] = program.refused() {
        return Err(format!("a library refuses what it promised: {why}"));
    }
    let mut step = |device: &mut dyn Device, poison: bool| -> Result<Vec<Tensor>, String> {
        for (v, tensor) in given {
            let tensor = if poison { &poisoned(tensor) } else { tensor };
            match resident(v) {
                true => device.set(&graph[*v].name, tensor),
                false => program.write(*v, tensor),
            }
            .map_err(text)?;
        }
        let ticket = program.submit().map_err(text)?;
        let mut found = program.outputs(ticket, true).map_err(text)?.ok_or("the step gave no outputs")?;
        let after = found.split_off(outputs.len());
        let changed = inputs.iter().zip(after).find(|(input, after)| !poison && after.bytes() != given[input].bytes());
        match changed {
            Some((input, _)) => Err(format!("the step changed its input {}", graph[*input].name)),
            None => Ok(found),
        }
    };
    step(device, true)?;
    let found = step(device, false)?;
    let again = step(device, false)?;
    match found.iter().zip(&again).position(|(first, second)| !same_bits(first, second)) {
        Some(n) => Err(format!("output {n} has other bits when the step is repeated")),
        None => Ok(found),
    }
}

/// Whether two tensors agree to the bit. Any NaN is as good as another: IEEE 754 leaves its sign and payload open.
pub fn same_bits(one: &Tensor, other: &Tensor) -> bool {
    match (one.data(), other.data()) {
        (Data::F32(a), Data::F32(b)) => {
            let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            one.shape() == other.shape() && a.iter().zip(b).all(same)
        }
        _ => one.ty() == other.ty() && one.bytes() == other.bytes(),
    }
}

/// [`run`] for a case of one op.
///
/// # Errors
/// What went wrong, in words.
pub fn run_case(device: &mut dyn Device, case: &Case, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let types: Vec<TensorType> = inputs.iter().map(Tensor::ty).collect();
    let one = OneOp::new(&case.label(), &case.op, &types).map_err(|e| e.to_string())?;
    let given = one.inputs.iter().copied().zip(inputs.iter().cloned()).collect();
    run(device, &one.graph, &given, &one.outputs)
}

/// NaN in place of every float; labels, pixels and counters stay, since they index.
fn poisoned(tensor: &Tensor) -> Tensor {
    match tensor.data() {
        Data::F32(v) => Tensor::f32(tensor.shape().clone(), vec![f32::NAN; v.len()]).unwrap_or_else(|_| tensor.clone()),
        _ => tensor.clone(),
    }
}
