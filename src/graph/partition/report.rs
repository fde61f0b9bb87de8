//! What a cut costs and saves: bytes that the devices send each other in a step, and the memory that each needs.

use serde::Serialize;

use super::Partition;
use crate::graph::{Graph, Role, ValueId, plan};

/// Memory of a step on one device, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Memory {
    /// Parameters.
    pub parameters: u64,
    /// The optimizer's state, and running averages.
    pub state: u64,
    /// Pictures, labels and the like.
    pub inputs: u64,
    /// Activations and gradients, as the planner lets them share.
    pub slots: u64,
}

impl Memory {
    /// Of a graph whose outputs are read back.
    pub fn of(graph: &Graph, outputs: &[ValueId]) -> Memory {
        let bytes = |role| graph.with_role(role).map(|value| graph[value].ty.bytes() as u64).sum();
        Memory {
            parameters: bytes(Role::Parameter),
            state: bytes(Role::State),
            inputs: bytes(Role::Input),
            slots: plan::plan(graph, outputs).slot_bytes() as u64,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.parameters + self.state + self.inputs + self.slots
    }
}

/// What goes from one device to another for a layer in each step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Edge {
    /// The layer that needs it.
    pub layer: String,
    /// What it is of: a value or parameter of the whole graph.
    pub value: String,
    /// Number of the device that has it.
    pub from: usize,
    /// Number of the device that needs it.
    pub to: usize,
    /// Size.
    pub bytes: u64,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// Sum of all edges.
    pub bytes_per_step: u64,
    /// In the order of the layers.
    pub edges: Vec<Edge>,
    /// Of each device.
    pub memory: Vec<Memory>,
    /// Of one device that runs the whole graph.
    pub one_device: Memory,
}

impl Report {
    /// Of a graph, its outputs, and how it was cut.
    pub fn new(graph: &Graph, outputs: &[ValueId], partition: &Partition) -> Report {
        let mut edges: Vec<Edge> = Vec::new();
        for transfer in &partition.transfers {
            let (from, to) = (transfer.from.0, transfer.to.0);
            let same = |edge: &&mut Edge| {
                edge.layer == transfer.layer && edge.value == transfer.value && (edge.from, edge.to) == (from, to)
            };
            match edges.iter_mut().find(same) {
                Some(edge) => edge.bytes += transfer.bytes,
                None => edges.push(Edge {
                    layer: transfer.layer.clone(),
                    value: transfer.value.clone(),
                    from,
                    to,
                    bytes: transfer.bytes,
                }),
            }
        }
        Report {
            bytes_per_step: edges.iter().map(|edge| edge.bytes).sum(),
            edges,
            memory: partition.parts.iter().map(|part| Memory::of(&part.graph, &part.output_values())).collect(),
            one_device: Memory::of(graph, outputs),
        }
    }
}
