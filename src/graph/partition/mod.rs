//! Cutting a step over several devices: from one graph to a graph for each device and the values that they send each other.
//!
//! Every value of the whole graph gets a [`Layout`]: each device has all of it, a range of it, or a summand. A rule for each op
//! (`rules`) says what a device needs of the inputs to make its part of the outputs; what it has not got it is sent
//! (`exchange`). So the walk over a training step, made of forward, backward and optimizer nodes alike, puts the exchanges of
//! gradients where those of activations call for them. Then each device's nodes are put in an order that lets transfers
//! overlap with work, and cut into [`Stage`](super::Stage)s where something is sent or awaited (`schedule`).
//!
//! Both ways of cutting are this one thing, and differ in what is cut first:
//!
//! - [`Parallel::Model`]: parameters by their outputs, as on the 2012 paper's two GPUs, so that activations are cut by channels. A
//!   convolution in groups sees its own device's channels alone; a plain one, and a fully connected layer, need all of them.
//! - [`Parallel::Data`]: pictures, so that activations are cut by rows. Each device keeps a part of each parameter and of its
//!   optimizer state, is sent the rest when it is used, and sums the gradient of its part (Rajbhandari et al. 2020, "ZeRO", stage 3).
//!   The loss is computed of all logits on every device, so that means are over the whole batch however uneven its parts are.
//!
//! What a rule does not cut is computed by every device. Random numbers are those of the element's place in the whole, sums over
//! devices have one order: the result is the whole graph's to rounding.

mod batch_norm;
mod exchange;
mod products;
mod report;
mod rules;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::fuse::updates_apart;
use super::{Graph, Node, Role, Value, ValueId};
use crate::error::{Error, Result};
use crate::tensor::TensorType;
pub use report::{Edge, Memory, Report};
use schedule::Order;

/// What is cut over the devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Parallel {
    /// Each layer's kernels and neurons.
    #[default]
    Model,
    /// The batch.
    Data,
}

/// An axis, and a range of the extent along it.
pub type Section = (usize, Range<usize>);

/// How a value lies on the devices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Each device has all of it.
    Whole,
    /// Device d has `bounds[d]..bounds[d + 1]` of the extent along `axis`, which is not empty.
    Split {
        /// 0 rows, or a parameter's outputs; 1 channels or features.
        axis: usize,
        /// One more than there are devices.
        bounds: Vec<usize>,
    },
    /// The value is the sum of what the devices have.
    Sum,
}

impl Layout {
    /// The extent cut as evenly as can be; `None` where a device would have nothing.
    pub fn even(axis: usize, extent: usize, devices: usize) -> Option<Layout> {
        let bounds = (0..=devices).map(|d| extent * d / devices).collect();
        (extent >= devices).then_some(Layout::Split { axis, bounds })
    }

    /// The axis along which device `device` has a range, and the range.
    pub fn range(&self, device: usize) -> Option<Section> {
        match self {
            Layout::Split { axis, bounds } => Some((*axis, bounds[device]..bounds[device + 1])),
            _ => None,
        }
    }

    /// The type of device `device`'s part.
    pub fn local(&self, ty: &TensorType, device: usize) -> TensorType {
        match self.range(device) {
            None => ty.clone(),
            Some((axis, range)) => {
                let mut extents = ty.shape.to_vec();
                extents[axis] = range.len();
                TensorType::new(extents, ty.dtype)
            }
        }
    }
}

/// What one device runs.
#[derive(Clone, Debug)]
pub struct Part {
    /// In [`Graph::stages`].
    pub graph: Graph,
    /// Number of the whole graph's output, and the value that is it, or this device's part of it.
    pub outputs: Vec<(usize, ValueId)>,
}

impl Part {
    /// The values of [`Part::outputs`].
    pub fn output_values(&self) -> Vec<ValueId> {
        self.outputs.iter().map(|(_, value)| *value).collect()
    }

    /// Whether the device has nothing to do.
    pub fn is_idle(&self) -> bool {
        self.graph.nodes.is_empty() && self.outputs.is_empty() && self.graph.stages.is_empty()
    }
}

/// A value that goes from one device to another in each step.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// The layer that needs it.
    pub layer: String,
    /// The value of the whole graph that it is of.
    pub value: String,
    /// Device, and value of its graph.
    pub from: (usize, ValueId),
    /// Device, and value of its graph, of role [`Role::Received`].
    pub to: (usize, ValueId),
    /// Size.
    pub bytes: u64,
}

/// A source of the whole graph on the devices.
#[derive(Clone, Debug)]
pub struct Source {
    /// How it is cut.
    pub layout: Layout,
    /// Its value in each device's graph.
    pub locals: Vec<ValueId>,
}

/// A graph cut over devices.
#[derive(Clone, Debug)]
pub struct Partition {
    /// One for each device.
    pub parts: Vec<Part>,
    /// In the order in which they are needed.
    pub transfers: Vec<Transfer>,
    /// Inputs, parameters and states, by their number in the whole graph.
    pub sources: BTreeMap<ValueId, Source>,
    /// Of each output.
    pub outputs: Vec<Layout>,
}

/// Cuts `graph` over so many devices; `outputs` are computed, each as a whole or in parts. Parameters and states named in `known`
/// lie on the devices already, and stay as they are.
///
/// # Errors
/// When a training step has nothing that can be cut: every layer has fewer outputs, or the batch fewer pictures, than there are
/// devices. (What does not train is then computed by every device.)
pub fn partition(
    graph: &Graph,
    outputs: &[ValueId],
    devices: usize,
    parallel: Parallel,
    known: &HashMap<String, Layout>,
) -> Result<Partition> {
    partition_in(&[Order::Overlapping, Order::AsGiven], graph, outputs, devices, parallel, known)
}

/// [`partition`], in the first of these orders in which no device waits for ever.
fn partition_in(
    orders: &[Order],
    graph: &Graph,
    outputs: &[ValueId],
    devices: usize,
    parallel: Parallel,
    known: &HashMap<String, Layout>,
) -> Result<Partition> {
    // A device updates each parameter as soon as it can, and those that it has.
    let whole = updates_apart(graph);
    let nodes = whole.nodes.clone();
    let mut builder = Builder {
        whole,
        parallel,
        known,
        parts: vec![Graph::new(); devices],
        layouts: vec![None; graph.values.len()],
        locals: vec![Vec::new(); graph.values.len()],
        pieces: HashMap::new(),
        slices: HashMap::new(),
        moved: HashMap::new(),
        transfers: Vec::new(),
        layer: String::new(),
    };
    for node in &nodes {
        builder.layer.clone_from(&node.layer);
        builder.node(node)?;
    }
    builder.finish(outputs, orders)
}

/// The state of the walk over the whole graph.
struct Builder<'a> {
    /// Values that a rule needs beside the graph's own are added to it.
    whole: Graph,
    parallel: Parallel,
    known: &'a HashMap<String, Layout>,
    /// Of each device, so far.
    parts: Vec<Graph>,
    /// Of each value of the whole, once it is known.
    layouts: Vec<Option<Layout>>,
    /// Of each value of the whole: its value on each device.
    locals: Vec<Vec<ValueId>>,
    /// What a device was given of a value: see [`exchange`].
    pieces: HashMap<(ValueId, usize, Option<Section>), ValueId>,
    /// Ranges cut out on a device.
    slices: HashMap<(usize, ValueId, usize, Range<usize>), ValueId>,
    /// Values of a device that another received.
    moved: HashMap<(usize, ValueId, usize), ValueId>,
    transfers: Vec<Transfer>,
    /// Of the node at hand.
    layer: String,
}

impl Builder<'_> {
    fn devices(&self) -> usize {
        self.parts.len()
    }

    fn ty(&self, value: ValueId) -> TensorType {
        self.whole[value].ty.clone()
    }

    /// How a value is cut that nothing else decides.
    fn natural(&self, value: ValueId) -> Layout {
        let Value { ty, role, .. } = &self.whole[value];
        let axis = match (self.parallel, role) {
            (_, Role::Input) | (Parallel::Model, Role::Parameter | Role::State) => return Layout::Whole,
            (Parallel::Model, _) => 1,
            (Parallel::Data, _) => 0,
        };
        let extent = ty.shape.get(axis).copied().unwrap_or(0);
        Layout::even(axis, extent, self.devices()).unwrap_or(Layout::Whole)
    }

    /// The layout of a value; a source that nothing was decided of gets its natural one.
    fn layout(&mut self, value: ValueId) -> Result<Layout> {
        match &self.layouts[value.0] {
            Some(layout) => Ok(layout.clone()),
            None => {
                let natural = self.natural(value);
                self.assign(value, natural)
            }
        }
    }

    /// Lays a source out as `wanted`, unless it lies otherwise already, and returns how it lies.
    fn assign(&mut self, value: ValueId, wanted: Layout) -> Result<Layout> {
        if let Some(layout) = &self.layouts[value.0] {
            return Ok(layout.clone());
        }
        let Value { name, ty, role, .. } = self.whole[value].clone();
        let resident = matches!(role, Role::Parameter | Role::State);
        let layout = match self.known.get(&name) {
            Some(known) if resident => known.clone(),
            _ if resident && self.parallel == Parallel::Data => self.natural(value),
            _ => wanted,
        };
        let locals = (0..self.devices()).map(|d| self.parts[d].source(&name, layout.local(&ty, d), role));
        let locals = locals.collect::<Result<Vec<_>>>()?;
        self.set(value, layout.clone(), locals);
        Ok(layout)
    }

    fn set(&mut self, value: ValueId, layout: Layout, locals: Vec<ValueId>) {
        self.layouts[value.0] = Some(layout);
        self.locals[value.0] = locals;
    }

    /// A value beside those of the whole graph, in the devices' parts.
    fn beside(&mut self, name: &str, ty: TensorType, layout: Layout, locals: Vec<ValueId>) -> ValueId {
        self.whole.values.push(Value { name: name.into(), ty, role: Role::Activation, producer: None });
        self.layouts.push(Some(layout));
        self.locals.push(locals);
        ValueId(self.whole.values.len() - 1)
    }

    fn finish(mut self, outputs: &[ValueId], orders: &[Order]) -> Result<Partition> {
        let mut places = Vec::new();
        for &output in outputs {
            let mut layout = self.layout(output)?;
            if layout == Layout::Sum {
                let sum = self.whole(output, 0)?;
                (layout, self.locals[output.0][0]) = (Layout::Whole, sum);
            }
            places.push((output, layout));
        }
        let (updates, computes): (Vec<&Node>, Vec<&Node>) =
            self.whole.nodes.iter().partition(|node| schedule::updates(&self.whole, node));
        let cut = |value: &ValueId| matches!(self.layouts[value.0], Some(Layout::Split { .. }));
        let devices = self.devices();
        if !updates.is_empty() && !computes.is_empty() && !computes.iter().any(|node| node.outputs.iter().any(cut)) {
            let (what, fewer) = match self.parallel {
                Parallel::Model => ("every layer", "outputs"),
                Parallel::Data => ("the batch", "pictures"),
            };
            return Err(Error::input(format!(
                "nothing of the network can be cut over {devices} devices: {what} has fewer {fewer} than that; take \
                 fewer devices"
            )));
        }
        // Parts of parameters are sent before anything is computed.
        let senders = self.transfers.iter().map(|transfer| transfer.from);
        let at_once: HashSet<(usize, ValueId)> =
            senders.filter(|(device, value)| self.parts[*device][*value].producer.is_none()).collect();
        let graphs = std::mem::take(&mut self.parts);
        let part = |device: usize, order: Order| {
            let graph = graphs[device].clone();
            let own = places.iter().enumerate().filter(|(_, (_, layout))| device == 0 || *layout != Layout::Whole);
            let own = own.map(|(number, (output, _))| (number, self.locals[output.0][device]));
            let mut part = Part { graph, outputs: own.collect() };
            let sent = self.transfers.iter().filter(|transfer| transfer.from.0 == device);
            let sent = sent.map(|transfer| transfer.from.1).collect();
            let early =
                self.transfers.iter().filter(|transfer| transfer.to.0 == device && at_once.contains(&transfer.from));
            let early = early.map(|transfer| transfer.to.1).collect();
            schedule::schedule(&mut part, &schedule::Mail { sent, early }, order);
            part
        };
        let mut cuts =
            orders.iter().map(|&order| (0..devices).map(|device| part(device, order)).collect::<Vec<Part>>());
        let parts = cuts.find(|parts| schedule::runs(parts, &self.transfers));
        let parts = parts.ok_or_else(|| Error::device("the devices would wait for each other for ever"))?;
        let source = |value: &ValueId| self.whole[*value].role != Role::Activation && self.layouts[value.0].is_some();
        let sources = (0..self.whole.values.len()).map(ValueId).filter(source).map(|value| {
            let layout = self.layouts[value.0].clone().unwrap_or(Layout::Whole);
            (value, Source { layout, locals: self.locals[value.0].clone() })
        });
        Ok(Partition {
            parts,
            transfers: self.transfers,
            sources: sources.collect(),
            outputs: places.into_iter().map(|(_, layout)| layout).collect(),
        })
    }
}
