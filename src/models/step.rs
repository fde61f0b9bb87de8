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
mod tests {
    use super::*;
    use crate::graph::fuse::Rewrites;
    use crate::graph::{Node, plan, reference};
    use crate::models::Rule;
    use crate::ops::{Array, Op, Sgd, UpdateRule};
    use std::collections::HashMap;

    #[test]
    fn every_parameter_is_updated_once() {
        let model = Model::find("alexnet").unwrap();
        for (optimizer, per_parameter) in [(OptimizerConfig::paper(), 1), (OptimizerConfig::adamw(0.01), 2)] {
            let train = train_graph(&model, &BuildOptions::new(2, 2), &optimizer, 0.1).unwrap();
            assert_eq!(train.states.len(), per_parameter * train.parameters.len());
            for parameter in &train.parameters {
                let overwrites =
                    |node: &&Node| node.op.aliases().iter().any(|&(_, input)| node.inputs[input] == parameter.value);
                let updates = train.graph.nodes.iter().filter(overwrites).collect::<Vec<_>>();
                let [update] = updates[..] else { panic!("{} has no one update", parameter.name) };
                if UpdateRule::of(&update.op).is_some() {
                    let gradient = &train.graph[update.inputs[1]];
                    assert_eq!(gradient.ty.shape, parameter.shape);
                    assert!(gradient.producer.is_some());
                }
            }
            // The pictures need no gradient: no convolution propagates to them.
            let to_input = train.graph.nodes.iter().filter(|n| matches!(n.op, Op::Conv2dBackwardInput(_)));
            assert_eq!(to_input.count(), 4);
        }
    }

    #[test]
    fn biases_are_treated_as_configured() {
        let model = Model::find("four-layer").unwrap();
        let optimizer = OptimizerConfig { decay_biases: false, bias_lr_scale: 2.0, ..OptimizerConfig::paper() };
        let options = BuildOptions { rewrites: Rewrites::NONE, ..BuildOptions::new(2, 2) };
        let train = train_graph(&model, &options, &optimizer, 0.0).unwrap();
        let update = |name: &str| -> Sgd {
            let node = train.graph.nodes.iter().find(|n| n.layer == name && matches!(n.op, Op::Sgd(_))).unwrap();
            match &node.op {
                Op::Sgd(sgd) => sgd.clone(),
                _ => unreachable!("the search asked for it"),
            }
        };
        assert_eq!((update("conv1.weight").lr_scale, update("conv1.weight").weight_decay), (1.0, 5e-4));
        assert_eq!((update("conv1.bias").lr_scale, update("conv1.bias").weight_decay), (2.0, 0.0));
    }

    /// A layer's own factors multiply the run's rate and decay; one that is frozen has no update, and nothing below it a gradient.
    #[test]
    fn layers_are_trained_as_their_file_says() {
        let text = |conv1: &str, fc2: &str| {
            format!(
                "input = [3, 8, 8]\nlayers = [{{ kind = \"conv2d\", out = 2, kernel = 3, {conv1} }}, \"batch_norm\", \"relu\", \
                 \"flatten\", {{ kind = \"linear\", out = 5, {fc2} }}, {{ kind = \"linear\", out = \"classes\" }}]"
            )
        };
        let optimizer = OptimizerConfig { bias_lr_scale: 2.0, ..OptimizerConfig::paper() };
        let train = |conv1: &str, fc2: &str| {
            let model = Model::parse(&text(conv1, fc2), "m.toml").unwrap();
            assert_eq!(Model::parse(&model.to_toml().unwrap(), "m.toml").unwrap(), model);
            train_graph(&model, &BuildOptions { rewrites: Rewrites::NONE, ..BuildOptions::new(2, 2) }, &optimizer, 0.0)
                .unwrap()
        };
        let update = |train: &TrainGraph, name: &str| {
            train.graph.nodes.iter().find_map(|node| match &node.op {
                Op::Sgd(sgd) if node.layer == name => Some((sgd.lr_scale, sgd.weight_decay)),
                _ => None,
            })
        };
        let own = train("lr_scale = 0.5", "lr_scale = 3, bias_lr_scale = 4, decay_scale = 7.5");
        for (name, expected) in [
            ("conv1.weight", (0.5, 5e-4)),
            ("conv1.bias", (1.0, 5e-4)),
            ("bn1.weight", (1.0, 5e-4)),
            ("fc2.weight", (3.0, 5e-4 * 7.5)),
            ("fc2.bias", (12.0, 5e-4 * 7.5)),
            ("fc3.weight", (1.0, 5e-4)),
            ("fc3.bias", (2.0, 5e-4)),
        ] {
            assert_eq!(update(&own, name), Some(expected), "{name}");
        }
        let frozen = train("lr_scale = 0", "lr_scale = 1");
        assert_eq!((update(&frozen, "conv1.weight"), update(&frozen, "conv1.bias")), (None, None));
        assert!(!frozen.states.iter().any(|(name, _)| name.starts_with("conv1")));
        assert_eq!(frozen.parameters.len(), own.parameters.len());
        let backward = |train: &TrainGraph| {
            train.graph.nodes.iter().filter(|n| matches!(n.op, Op::Conv2dBackwardWeight(_))).count()
        };
        assert_eq!((backward(&own), backward(&frozen)), (1, 0));
        assert!(frozen.layers.iter().all(|layer| layer.frozen == (layer.name == "conv1")));
        let biases = train("lr_scale = 1", "bias_lr_scale = 0");
        assert_eq!((update(&biases, "fc2.weight"), update(&biases, "fc2.bias")), (Some((1.0, 5e-4)), None));
        assert!(!biases.layers.iter().any(|layer| layer.frozen));
    }

    #[test]
    fn a_model_without_anything_to_train_is_refused() {
        let text = "input = [3, 8, 8]\nlayers = [\"flatten\", { kind = \"linear\", out = \"classes\", lr_scale = 0 }]";
        let model = Model::parse(text, "m.toml").unwrap();
        let error = train_graph(&model, &BuildOptions::new(2, 2), &OptimizerConfig::paper(), 0.0).unwrap_err();
        assert!(error.to_string().contains("nothing to train"), "{error}");
    }

    /// Gradients and activations that are no longer read make room: far less than all values side by side.
    #[test]
    fn training_memory_is_shared() {
        let model = Model::find("alexnet").unwrap();
        let train = train_graph(&model, &BuildOptions::new(32, 2), &OptimizerConfig::paper(), 0.0).unwrap();
        let all: usize = train.graph.with_role(Role::Activation).map(|v| train.graph[v].ty.bytes()).sum();
        let planned = plan::plan(&train.graph, &[train.loss, train.logits]).slot_bytes();
        assert!(planned < all * 2 / 3, "{planned} of {all}");
    }

    /// The loss of mixed pictures is that of either label, in their shares.
    #[test]
    fn both_labels_of_a_mixed_picture_count() {
        let text =
            "name = \"tiny\"\ninput = [3, 2, 2]\nlayers = [\"flatten\", { kind = \"linear\", out = \"classes\" }]";
        let model = Model::parse(text, "tiny.toml").unwrap();
        let options = BuildOptions { mixed: true, ..BuildOptions::new(2, 3) };
        let train = train_graph(&model, &options, &OptimizerConfig::paper(), 0.1).unwrap();
        let mixing = train.mixing.unwrap();
        let loss = |share: f64, labels: [f64; 2], others: [f64; 2]| {
            let array = |id: ValueId, data: Vec<f64>| (id, Array { shape: train.graph[id].ty.shape.clone(), data });
            let filled = |id: ValueId| {
                let n = train.graph[id].ty.shape.elements();
                array(id, (0..n).map(|i| ((i * 7 + 3) % 11) as f64 / 5.0).collect())
            };
            let sources = (0..train.graph.values.len()).map(ValueId);
            let mut given: HashMap<_, _> =
                sources.filter(|&id| train.graph[id].role != Role::Activation).map(filled).collect();
            given.extend([
                array(mixing.plan, [1.0, 0.0, 0.0, 0.0, 0.0].repeat(2)),
                array(train.labels, labels.into()),
                array(train.weights.unwrap(), vec![share; 2]),
                array(mixing.labels, others.into()),
                array(mixing.weights, vec![1.0 - share; 2]),
            ]);
            reference::run(&train.graph, &given)[&train.loss].data[0]
        };
        let (one, other) = (loss(1.0, [0.0, 1.0], [2.0, 2.0]), loss(1.0, [2.0, 2.0], [0.0, 1.0]));
        assert!((one - other).abs() > 0.01, "{one} and {other} are no two losses");
        let mixed = loss(0.3, [0.0, 1.0], [2.0, 2.0]);
        assert!((mixed - (0.3 * one + 0.7 * other)).abs() < 1e-12, "{mixed}, of {one} and {other}");
    }

    #[test]
    fn options_out_of_range_are_errors() {
        let model = Model::find("four-layer").unwrap();
        let build = |optimizer: &OptimizerConfig, smoothing| {
            train_graph(&model, &BuildOptions::new(2, 2), optimizer, smoothing).map(|_| ()).unwrap_err().to_string()
        };
        assert!(build(&OptimizerConfig::paper(), 1.0).contains("label smoothing 1"));
        assert!(build(&OptimizerConfig::sgd(1.0, 0.0), 0.0).contains("momentum = 1"));
        assert!(build(&OptimizerConfig::adam(f32::NAN), 0.0).contains("weight decay"));
        let rule = Rule::Sgd { momentum: 0.9, nesterov: true, paper: true };
        assert!(build(&OptimizerConfig { rule, ..OptimizerConfig::paper() }, 0.0).contains("nesterov"));
    }
}
