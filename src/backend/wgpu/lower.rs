//! A graph, a case or an op alone becomes dispatches: each node is lowered by its op.

use std::sync::Arc;

use super::dispatch::Dispatch;
use super::lowering::{Capability, Lowering, Memory, ValueRef};
use crate::backend::Choices;
use crate::error::{Error, Result};
use crate::graph::plan::{Place, Plan, plan};
use crate::graph::{Graph, ValueId};
use crate::ops::Op;
use crate::ops::case::Case;
use crate::selftest::harness::OneOp;
use crate::tensor::TensorType;

/// Where a value lives. Whatever a node computes has a slot or lives in a source.
pub(in crate::backend) fn place(plan: &Plan, id: ValueId) -> Memory {
    match plan.places[id.0] {
        Place::Source(source) => Memory::Source(source),
        Place::Slot(slot) => Memory::Slot(slot),
        Place::Unused => Memory::Source(id),
    }
}

/// Lowers every node, for a device whose largest buffer has `max_buffer` bytes.
pub(in crate::backend) fn lower(
    capability: Capability,
    choices: &Arc<Choices>,
    max_buffer: u64,
    graph: &Graph,
    plan: &Plan,
) -> Result<Lowering> {
    lower_parts(capability, choices, max_buffer, graph, plan, |_| Wanted::Whole)
}

/// What of a node is lowered.
#[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code))] // all of it, but for CUDA
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::backend) enum Wanted {
    /// All of it.
    Whole,
    /// Nothing: something else computes it.
    Nothing,
    /// Of a linear layer's update the optimizer's step, with the gradient that something else writes to the first scratch memory.
    Update,
}

/// [`lower`] of parts of the nodes, by their numbers.
pub(in crate::backend) fn lower_parts(
    capability: Capability,
    choices: &Arc<Choices>,
    max_buffer: u64,
    graph: &Graph,
    plan: &Plan,
    part: impl Fn(usize) -> Wanted,
) -> Result<Lowering> {
    let mut lowering = Lowering::new(capability, choices.clone());
    let reference = |&id: &ValueId| {
        let value = &graph[id];
        if value.ty.bytes() as u64 > max_buffer {
            return Err(Error::device(format!(
                "{} {} needs {} bytes, but this device's largest buffer has {max_buffer}; lower --batch-size",
                value.name,
                value.ty.shape,
                value.ty.bytes(),
            )));
        }
        Ok(ValueRef { memory: place(plan, id), ty: value.ty.clone(), name: value.name.clone() })
    };
    for (number, node) in graph.nodes.iter().enumerate() {
        let inputs = node.inputs.iter().map(reference).collect::<Result<Vec<_>>>()?;
        let outputs = node.outputs.iter().map(reference).collect::<Result<Vec<_>>>()?;
        lowering.node(&node.layer, graph.signature(node));
        match (part(number), &node.op) {
            (Wanted::Whole, op) => op.wgpu().lower(&mut lowering, &inputs, &outputs)?,
            (Wanted::Update, Op::LinearUpdate(update)) => update.lower_step(&mut lowering, &inputs, &outputs)?,
            _ => {}
        }
    }
    Ok(lowering)
}

/// The dispatches of a case.
///
/// # Errors
/// When the device is too small for it.
pub(in crate::backend) fn of_case(case: &Case, capability: Capability) -> Result<Vec<Dispatch>> {
    Ok(lower_alone(&case.op, &case.types(), capability)?.dispatches)
}

/// Names of the kernels that an op chooses between.
///
/// # Errors
/// When the device is too small for it.
pub(in crate::backend) fn candidates(op: &Op, types: &[TensorType], capability: Capability) -> Result<Vec<String>> {
    Ok(lower_alone(op, types, capability)?.candidates().to_vec())
}

fn lower_alone(op: &Op, types: &[TensorType], capability: Capability) -> Result<Lowering> {
    let one = OneOp::new("one", op, types)?;
    lower(capability, &Default::default(), u64::MAX, &one.graph, &plan(&one.graph, &one.outputs))
}
