//! What a training step consists of.

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
    let backward =
        |train: &TrainGraph| train.graph.nodes.iter().filter(|n| matches!(n.op, Op::Conv2dBackwardWeight(_))).count();
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
    let text = "name = \"tiny\"\ninput = [3, 2, 2]\nlayers = [\"flatten\", { kind = \"linear\", out = \"classes\" }]";
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
