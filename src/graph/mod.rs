//! The graph: typed values and the nodes that compute them. Plain data; shapes are fixed when a node is added.
//!
//! [`autodiff`] appends the backward nodes, [`fuse`] rewrites what can run faster, [`partition`] cuts it over several devices, [`plan`] gives every value its memory, a backend compiles the result.

pub mod autodiff;
pub mod fuse;
pub mod partition;
pub mod plan;
pub mod reference;

use std::ops::Range;

use crate::error::{Error, Result};
use crate::ops::Op;
use crate::tensor::TensorType;

/// A value's place in [`Graph::values`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ValueId(pub usize);

/// Where a value comes from and how long it lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Written by the host before a step: pictures, labels, the random counter.
    Input,
    /// Trained; lives on the device under its name, shared by all programs there.
    Parameter,
    /// Optimizer state or statistics; lives as a parameter does.
    State,
    /// Computed by a node within a step.
    Activation,
    /// Written within a step, at the start of a [`Stage`]: another device computed it.
    Received,
}

/// A tensor of the graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Unique for inputs, parameters and state (`conv1.weight`); for the rest, what a message or profile prints.
    pub name: String,
    /// Shape and element type.
    pub ty: TensorType,
    /// See [`Role`].
    pub role: Role,
    /// Index of the node that computes it.
    pub producer: Option<usize>,
}

/// An op applied to values.
#[derive(Clone, Debug)]
pub struct Node {
    /// The layer the node belongs to (`conv1`); backward nodes keep the forward layer's name.
    pub layer: String,
    /// What it computes.
    pub op: Op,
    /// In the op's order.
    pub inputs: Vec<ValueId>,
    /// In the op's order.
    pub outputs: Vec<ValueId>,
}

/// Nodes that a device runs in one go, when it is one of several that run a graph.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Stage {
    /// Numbers of the nodes; there may be none.
    pub nodes: Range<usize>,
    /// Values of role [`Role::Received`] that are written before.
    pub received: Vec<ValueId>,
    /// Values that other devices need, read back after.
    pub sent: Vec<ValueId>,
}

/// Values and nodes, in an order in which they can run.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// All values.
    pub values: Vec<Value>,
    /// All nodes; a node's inputs are made by earlier nodes.
    pub nodes: Vec<Node>,
    /// The nodes in stages, where this is one device's part of a graph; else none.
    pub stages: Vec<Stage>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value that no node computes.
    ///
    /// # Errors
    /// When another such value has the name: they are found by it.
    pub fn source(&mut self, name: &str, ty: TensorType, role: Role) -> Result<ValueId> {
        debug_assert_ne!(role, Role::Activation);
        if self.named(name).is_some() {
            return Err(Error::shape(name, "the name is taken: give each layer and input a name of its own"));
        }
        self.values.push(Value { name: name.into(), ty, role, producer: None });
        Ok(ValueId(self.values.len() - 1))
    }

    /// Adds a node for `layer` and returns its outputs.
    ///
    /// # Errors
    /// [`Error::Shape`] with the layer's name when the op cannot take these inputs.
    pub fn apply_all(&mut self, layer: &str, op: impl Into<Op>, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        self.append(layer, op.into(), inputs)
    }

    /// Apart from [`Graph::apply_all`], so that it is compiled once and not for every op.
    fn append(&mut self, layer: &str, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        let types: Vec<TensorType> = inputs.iter().map(|&v| self[v].ty.clone()).collect();
        let outputs = op.infer(&types).map_err(|m| Error::shape(format!("{layer} ({})", op.name()), m))?;
        let first = self.values.len();
        for ty in outputs {
            let name = format!("{layer}.{}", op.name());
            self.values.push(Value { name, ty, role: Role::Activation, producer: Some(self.nodes.len()) });
        }
        let outputs: Vec<ValueId> = (first..self.values.len()).map(ValueId).collect();
        self.nodes.push(Node { layer: layer.into(), op, inputs: inputs.to_vec(), outputs: outputs.clone() });
        Ok(outputs)
    }

    /// [`Graph::apply_all`] for an op with one output.
    pub fn apply(&mut self, layer: &str, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        Ok(self.apply_all(layer, op, inputs)?[0])
    }

    /// The stages of a step: those of a part, else one of all nodes.
    pub fn stages(&self) -> Vec<Stage> {
        match self.stages.is_empty() {
            true => vec![Stage { nodes: 0..self.nodes.len(), ..Stage::default() }],
            false => self.stages.clone(),
        }
    }

    /// Says of each value which node computes it, after nodes were moved.
    pub fn number_producers(&mut self) {
        self.values.iter_mut().for_each(|value| value.producer = None);
        for (index, node) in self.nodes.iter().enumerate() {
            node.outputs.iter().for_each(|output| self.values[output.0].producer = Some(index));
        }
    }

    /// Types of a node's inputs.
    pub fn types(&self, node: &Node) -> Vec<TensorType> {
        node.inputs.iter().map(|&value| self[value].ty.clone()).collect()
    }

    /// Multiply-accumulates of a node.
    pub fn macs(&self, node: &Node) -> u64 {
        node.op.macs(&self.types(node))
    }

    /// What a node computes on which types: nodes of one signature take the same time.
    pub fn signature(&self, node: &Node) -> String {
        let shapes = self.types(node).into_iter().map(|ty| format!(" {}", ty.shape));
        format!("{:?}{}", node.op, shapes.collect::<String>())
    }

    /// The input, parameter or state of this name.
    pub fn named(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|v| v.role != Role::Activation && v.name == name).map(ValueId)
    }

    /// Values of a role, in order of creation.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = ValueId> + '_ {
        (0..self.values.len()).map(ValueId).filter(move |&v| self[v].role == role)
    }
}

impl std::ops::Index<ValueId> for Graph {
    type Output = Value;
    fn index(&self, id: ValueId) -> &Value {
        &self.values[id.0]
    }
}
