//! The two graphs that a device runs: a training step (pictures in, parameters updated) and an evaluation (pictures in, logits out).

use super::build::Phase;
use super::see::Seen;
use super::{BuildOptions, Fold, LayerInfo, Model, OptimizerConfig, Parameter};
use crate::error::{Error, Result};
use crate::graph::fuse::fuse;
use crate::graph::{Graph, Role, ValueId, autodiff};
use crate::ops::{Add, CrossEntropy};
use crate::tensor::{DType, TensorType};

/// Forward, loss, backward and optimizer.
#[derive(Clone, Debug)]
pub struct TrainGraph {
    /// All of it; compile it with the outputs `[loss, logits]`.
    pub graph: Graph,
    /// Input `pictures`: u8 [N, H, W, 3], RGB, of the stored size.
    pub pictures: ValueId,
    /// Input `labels`: `u32 [N]`, [`crate::ops::IGNORE`] for a row that takes no part.
    pub labels: ValueId,
    /// Input `weights`: f32 `[N]`, what each row counts in the loss; if [`BuildOptions::weighted`] or [`BuildOptions::mixed`].
    pub weights: Option<ValueId>,
    /// If [`BuildOptions::mixed`].
    pub mixing: Option<MixInputs>,
    /// Input `counter`: `u32 [4] = [seed low, seed high, step, 0]`.
    pub counter: ValueId,
    /// Input `schedule`: `f32 [4]`, from [`OptimizerConfig::schedule`].
    pub schedule: ValueId,
    /// `f32 [1]`.
    pub loss: ValueId,
    /// f32 [N, classes].
    pub logits: ValueId,
    /// In the model's order, statistics too.
    pub parameters: Vec<Parameter>,
    /// Optimizer state, zero at the start of a run.
    pub states: Vec<(String, TensorType)>,
    /// For tables.
    pub layers: Vec<LayerInfo>,
}

/// What a step that mixes pictures is told beside: the loss is the sum of those for both labels, each with its weights.
#[derive(Clone, Copy, Debug)]
pub struct MixInputs {
    /// Input `mixing`: f32 `[N, 5]`, the plan of [`crate::ops::Mix`].
    pub plan: ValueId,
    /// Input `other labels`: `u32 [N]`, those of the pictures mixed in; [`crate::ops::IGNORE`] in the same rows as `labels`.
    pub labels: ValueId,
    /// Input `other weights`: f32 `[N]`, what these count in the loss.
    pub weights: ValueId,
}

/// Forward only, without randomness: the centre crop, no flip, no dropout.
#[derive(Clone, Debug)]
pub struct EvalGraph {
    /// All of it; compile it with the output `[logits]`.
    pub graph: Graph,
    /// Input `pictures`: u8 [N, H, W, 3], RGB, of the stored size.
    pub pictures: ValueId,
    /// Input `counter`, `u32 [4]`, which changes nothing here.
    pub counter: ValueId,
    /// f32 [N, classes].
    pub logits: ValueId,
    /// In the model's order, statistics too.
    pub parameters: Vec<Parameter>,
    /// What was folded, with [`BuildOptions::fold`]: to be done to the tensors of a training too.
    pub folds: Vec<Fold>,
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
    let weighted = options.weighted || options.mixed;
    let weights = match weighted {
        true => Some(graph.source("weights", TensorType::f32([options.batch]), Role::Input)?),
        false => None,
    };
    let inputs: Vec<ValueId> = [network.logits, labels].into_iter().chain(weights).collect();
    let mut loss = graph.apply("loss", CrossEntropy { label_smoothing, weighted }, &inputs)?;
    let mut mixing = None;
    if let Some(plan) = network.mixing {
        let labels = graph.source("other labels", TensorType::new([options.batch], DType::U32), Role::Input)?;
        let weights = graph.source("other weights", TensorType::f32([options.batch]), Role::Input)?;
        let entropy = CrossEntropy { label_smoothing, weighted };
        let other = graph.apply("other loss", entropy, &[network.logits, labels, weights])?;
        loss = graph.apply("loss", Add, &[loss, other])?;
        mixing = Some(MixInputs { plan, labels, weights });
    }
    let trained: Vec<&Parameter> = network.parameters.iter().filter(|p| p.is_trained() && !p.is_frozen()).collect();
    if trained.is_empty() {
        return Err(Error::input(format!("{}: every layer has lr_scale = 0: there is nothing to train", model.name)));
    }
    let wanted: Vec<ValueId> = trained.iter().map(|p| p.value).collect();
    let gradients = autodiff::gradients(&mut graph, loss, &wanted)?;
    let mut states = Vec::new();
    for (parameter, gradient) in trained.into_iter().zip(gradients) {
        states.extend(optimizer.append(&mut graph, parameter, gradient, schedule)?);
    }
    fuse(&mut graph, options.rewrites, &[loss, network.logits]);
    Ok(TrainGraph {
        graph,
        pictures: network.pictures,
        labels,
        weights,
        mixing,
        counter: network.counter,
        schedule,
        loss,
        logits: network.logits,
        parameters: network.parameters,
        states,
        layers: network.layers,
    })
}

/// Only what comes before the first layer in training: to look at.
#[derive(Clone, Debug)]
pub struct ViewGraph {
    /// All of it; compile it with the output `[x]`.
    pub graph: Graph,
    /// Input `pictures`: u8 [N, H, W, 3], RGB, of the stored size.
    pub pictures: ValueId,
    /// Input `counter`: `u32 [4] = [seed low, seed high, step, 0]`.
    pub counter: ValueId,
    /// Input `mixing`: f32 `[N, 5]`, the plan of [`crate::ops::Mix`], if [`BuildOptions::mixed`].
    pub mixing: Option<ValueId>,
    /// f32 [N, 3, h, w]: augmented, normalised and mixed.
    pub x: ValueId,
}

/// Builds what a training step does to its pictures before the first layer.
///
/// # Errors
/// When an option is out of range.
pub fn view_graph(model: &Model, options: &BuildOptions) -> Result<ViewGraph> {
    let mut graph = Graph::new();
    let Seen { pictures, counter, mixing, x, .. } = model.see(&mut graph, options, Phase::Training)?;
    Ok(ViewGraph { graph, pictures, counter, mixing, x })
}

/// Builds the evaluation of a model: `options.crop`, `options.flip` and dropout are off, whatever they say.
///
/// # Errors
/// When the model cannot take pictures of this size ([`Error::Shape`] with the layer's name), or an option is out of range.
pub fn eval_graph(model: &Model, options: &BuildOptions) -> Result<EvalGraph> {
    let mut graph = Graph::new();
    let network = model.build(&mut graph, options, Phase::Evaluation)?;
    fuse(&mut graph, options.rewrites, &[network.logits]);
    Ok(EvalGraph {
        graph,
        pictures: network.pictures,
        counter: network.counter,
        logits: network.logits,
        parameters: network.parameters,
        folds: network.folds,
    })
}

#[cfg(test)]
mod tests;
