//! The two graphs that a device runs: a training step (pictures in, parameters updated) and an evaluation (pictures in, logits out).

use super::build::Phase;
use super::{BuildOptions, LayerInfo, Model, OptimizerConfig, Parameter};
use crate::error::{Error, Result};
use crate::graph::{Graph, Role, ValueId, autodiff};
use crate::ops::CrossEntropy;
use crate::tensor::{DType, TensorType};

/// Forward, loss, backward and optimizer.
#[derive(Clone, Debug)]
pub struct TrainGraph {
    /// All of it; compile it with the outputs `[loss, logits]`.
    pub graph: Graph,
    /// Input `pictures`: u8 [N, H, W, 3], RGB, of the stored size.
    pub pictures: ValueId,
    /// Input `labels`: u32 [N], [`crate::ops::IGNORE`] for a row that takes no part.
    pub labels: ValueId,
    /// Input `counter`: u32 [4] = [seed low, seed high, step, 0].
    pub counter: ValueId,
    /// Input `schedule`: f32 [4], from [`OptimizerConfig::schedule`].
    pub schedule: ValueId,
    /// f32 [1].
    pub loss: ValueId,
    /// f32 [N, classes].
    pub logits: ValueId,
    /// In the model's order.
    pub parameters: Vec<Parameter>,
    /// Optimizer state, zero at the start of a run.
    pub states: Vec<(String, TensorType)>,
    /// For tables.
    pub layers: Vec<LayerInfo>,
}

/// Forward only, without randomness: the centre crop, no flip, no dropout.
#[derive(Clone, Debug)]
pub struct EvalGraph {
    /// All of it; compile it with the output `[logits]`.
    pub graph: Graph,
    /// Input `pictures`: u8 [N, H, W, 3], RGB, of the stored size.
    pub pictures: ValueId,
    /// Input `counter`, u32 [4], which changes nothing here.
    pub counter: ValueId,
    /// f32 [N, classes].
    pub logits: ValueId,
    /// In the model's order.
    pub parameters: Vec<Parameter>,
}

/// Builds the training step of a model.
///
/// # Errors
/// When the model cannot take pictures of this size ([`Error::Shape`] with the layer's name), or an option is out of range.
pub fn train_graph(
    model: &Model,
    options: &BuildOptions,
    optimizer: &OptimizerConfig,
    label_smoothing: f32,
) -> Result<TrainGraph> {
    optimizer.validate()?;
    if !(0.0..1.0).contains(&label_smoothing) {
        return Err(Error::input(format!("label smoothing {label_smoothing}: expected a number in [0, 1)")));
    }
    let mut graph = Graph::new();
    let network = model.build(&mut graph, options, Phase::Training)?;
    let labels = graph.source("labels", TensorType::new([options.batch], DType::U32), Role::Input)?;
    let schedule = graph.source("schedule", TensorType::f32([4]), Role::Input)?;
    let loss = graph.apply("loss", CrossEntropy { label_smoothing }, &[network.logits, labels])?;
    let wanted: Vec<ValueId> = network.parameters.iter().map(|p| p.value).collect();
    let gradients = autodiff::gradients(&mut graph, loss, &wanted)?;
    let mut states = Vec::new();
    for (parameter, gradient) in network.parameters.iter().zip(gradients) {
        states.extend(optimizer.append(&mut graph, parameter, gradient, schedule)?);
    }
    Ok(TrainGraph {
        graph,
        pictures: network.pictures,
        labels,
        counter: network.counter,
        schedule,
        loss,
        logits: network.logits,
        parameters: network.parameters,
        states,
        layers: network.layers,
    })
}

/// Builds the evaluation of a model: `options.crop`, `options.flip` and dropout are off, whatever they say.
///
/// # Errors
/// When the model cannot take pictures of this size ([`Error::Shape`] with the layer's name), or an option is out of range.
pub fn eval_graph(model: &Model, options: &BuildOptions) -> Result<EvalGraph> {
    let mut graph = Graph::new();
    let network = model.build(&mut graph, options, Phase::Evaluation)?;
    Ok(EvalGraph {
        graph,
        pictures: network.pictures,
        counter: network.counter,
        logits: network.logits,
        parameters: network.parameters,
    })
}
