//! Fixtures of ops: a graph of one or a few, its outputs and gradients.

use std::collections::HashMap;

use convoy::backend::Device;
use convoy::graph::{Graph, Role, ValueId, autodiff};
use convoy::ops::{
    Activation, ActivationKind, Adam, Add, Augment, AvgPool2d, BatchNorm, BatchNormInference, Bias, Biased, Broadcast,
    Color, Concat, Conv2d, Conv2dBackwardInput, Crop, CrossEntropy, Dropout, DropoutScaling, Fill, Linear,
    LinearBackwardInput, LinearBackwardWeight, Lrn, MaxPool2d, Mix, Mul, Op, Product, Reduce, ReduceKind, Reshape,
    RunningAverage, Scale, Sgd, Softmax, Strip,
};
use convoy::selftest::harness;
use convoy::tensor::Tensor;
use serde::Deserialize;

use crate::fixture::{Fixture, Options, Outcome, TOLERANCE};

#[derive(Deserialize)]
struct GraphOptions {
    nodes: Vec<NodeOptions>,
    #[serde(default = "tolerance")]
    tolerance: (f64, f64),
}

fn tolerance() -> (f64, f64) {
    TOLERANCE
}

#[derive(Deserialize)]
struct NodeOptions {
    op: String,
    options: Options,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

/// The op of this name ([`convoy::ops::Operator::name`]) with these options.
pub fn op(name: &str, o: &Options) -> Op {
    let activation = ActivationKind::ALL.into_iter().find(|kind| kind.name() == name);
    let op: Op = match name {
        _ if activation.is_some() => Activation { kind: activation.expect("it was asked") }.into(),
        "conv2d" => conv2d(o).into(),
        "conv2d_backward_input" => Conv2dBackwardInput { conv: conv2d(o), input: o.get("input") }.into(),
        "linear" => Linear.into(),
        "conv2d_bias" | "conv2d_bias_relu" => {
            Biased { product: Product::Conv2d(conv2d(o)), relu: name.ends_with("relu") }.into()
        }
        "linear_bias" | "linear_bias_relu" => {
            Biased { product: Product::Linear(Linear), relu: name.ends_with("relu") }.into()
        }
        "linear_backward_input" => LinearBackwardInput.into(),
        "linear_backward_weight" => LinearBackwardWeight.into(),
        "bias" => Bias.into(),
        "lrn" => {
            Lrn { size: o.get("size"), alpha: o.get("alpha"), beta: o.get("beta"), k: o.get("k"), groups: 1 }.into()
        }
        "max_pool2d" => MaxPool2d {
            kernel: o.get("kernel"),
            stride: o.get("stride"),
            padding: o.get("padding"),
            ceil_mode: o.get("ceil_mode"),
        }
        .into(),
        "avg_pool2d" => AvgPool2d {
            kernel: o.get("kernel"),
            stride: o.get("stride"),
            padding: o.get("padding"),
            ceil_mode: o.get("ceil_mode"),
            count_include_pad: o.get("count_include_pad"),
        }
        .into(),
        "batch_norm" => BatchNorm { epsilon: o.get("epsilon") }.into(),
        "batch_norm_inference" => BatchNormInference { epsilon: o.get("epsilon") }.into(),
        "running_average" => RunningAverage { momentum: o.get("momentum"), factor: o.get("factor") }.into(),
        "concat" => Concat { channels: o.get("channels") }.into(),
        "dropout" => {
            let scaling = match o.get::<String>("scaling").as_str() {
                "inverted" => DropoutScaling::Inverted,
                "paper" => DropoutScaling::Paper,
                other => panic!("scaling {other}"),
            };
            Dropout { rate: o.get("rate"), stream: o.get("stream"), scaling, part: Strip::WHOLE }.into()
        }
        "reshape" => Reshape { shape: o.get::<Vec<usize>>("shape").into() }.into(),
        "softmax" => Softmax { log: false }.into(),
        "log_softmax" => Softmax { log: true }.into(),
        "cross_entropy" => {
            CrossEntropy { label_smoothing: o.get("label_smoothing"), weighted: o.get_or("weighted", false) }.into()
        }
        "add" => Add.into(),
        "mul" => Mul.into(),
        "scale" => Scale { factor: o.get("factor") }.into(),
        "fill" => Fill { shape: o.get::<Vec<usize>>("shape").into(), value: o.get("value") }.into(),
        "sum" => Reduce { kind: ReduceKind::Sum }.into(),
        "mean" => Reduce { kind: ReduceKind::Mean }.into(),
        "broadcast" => Broadcast { shape: o.get::<Vec<usize>>("shape").into() }.into(),
        "augment" => {
            let crop = match o.get::<String>("crop").as_str() {
                "center" => Crop::Center,
                "random" => Crop::Random,
                "resized" => Crop::Resized { min_area: o.get("min_area") },
                other => panic!("crop {other}"),
            };
            let [brightness, contrast, saturation] = o.get_or("color", [0.0; 3]);
            Augment {
                output: o.get("output"),
                first_picture: 0,
                crop,
                flip: o.get("flip"),
                mean: o.get("mean"),
                mean_image: o.get_or("mean_image", false),
                std: o.get("std"),
                color: Color { brightness, contrast, saturation, pca: o.get_or("pca", [[0.0; 3]; 3]) },
                erase: o.get_or("erase", 0.0),
            }
            .into()
        }
        "mix" => Mix.into(),
        "sgd" => Sgd {
            momentum: o.get("momentum"),
            weight_decay: o.get("weight_decay"),
            nesterov: o.get("nesterov"),
            paper: o.get("paper"),
            lr_scale: o.get("lr_scale"),
        }
        .into(),
        "adam" | "adamw" => Adam {
            beta1: o.get("beta1"),
            beta2: o.get("beta2"),
            epsilon: o.get("epsilon"),
            weight_decay: o.get("weight_decay"),
            decoupled: o.get("decoupled"),
            lr_scale: o.get("lr_scale"),
        }
        .into(),
        other => panic!("op {other} is not known to this test"),
    };
    assert_eq!(op.name(), name);
    op
}

fn conv2d(o: &Options) -> Conv2d {
    Conv2d { stride: o.get("stride"), padding: o.get("padding"), dilation: o.get("dilation"), groups: o.get("groups") }
}

/// Outputs and gradients. Returns the names of the ops that ran, backward ones among them.
pub fn check(device: &mut dyn Device, fixture: &Fixture) -> Outcome<Vec<&'static str>> {
    let GraphOptions { nodes, tolerance } = fixture.options();
    let nodes: Vec<(Op, NodeOptions)> = nodes.into_iter().map(|node| (op(&node.op, &node.options), node)).collect();

    let mut graph = Graph::new();
    let mut values = HashMap::new();
    let mut given: HashMap<ValueId, Tensor> = HashMap::new();
    for (name, tensor) in fixture.group("input.") {
        // What an optimizer updates in place is a parameter, as in a training graph.
        let updated = |(op, node): &(Op, NodeOptions)| {
            node.inputs.iter().position(|input| input == name).is_some_and(|n| harness::updates(op, n))
        };
        let role = if nodes.iter().any(updated) { Role::Parameter } else { Role::Input };
        let value = graph.source(&fixture.value(name), tensor.ty(), role)?;
        values.insert(name.to_string(), value);
        given.insert(value, tensor.clone());
    }
    for (op, node) in nodes {
        let inputs: Vec<ValueId> = node.inputs.iter().map(|input| values[input]).collect();
        let outputs = graph.apply_all(&fixture.name(), op, &inputs)?;
        values.extend(node.outputs.into_iter().zip(outputs));
    }
    let mut read: Vec<(&str, ValueId)> =
        fixture.group("output.").iter().map(|&(name, _)| (name, values[name])).collect();

    let gradients = fixture.group("gradient.");
    if !gradients.is_empty() {
        let cotangent = fixture.tensor("cotangent");
        let seed = graph.source("cotangent", cotangent.ty(), Role::Input)?;
        given.insert(seed, cotangent.clone());
        let wanted: Vec<ValueId> =
            gradients.iter().map(|(name, _)| values[&name.replace("gradient", "input")]).collect();
        let found = autodiff::backward(&mut graph, values["output.0"], seed, &wanted)?;
        for ((name, _), gradient) in gradients.into_iter().zip(found) {
            read.push((name, gradient.ok_or_else(|| format!("there is no {name}"))?));
        }
    }
    let (names, outputs): (Vec<&str>, Vec<ValueId>) = read.into_iter().unzip();
    let found = harness::run(device, &graph, &given, &outputs)?;
    names.iter().zip(&found).try_for_each(|(name, got)| fixture.check(name, got, tolerance))?;
    Ok(graph.nodes.iter().map(|node| node.op.name()).collect())
}
