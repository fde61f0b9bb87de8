//! Networks have the shapes, first values and errors that they should.

use super::*;
use crate::models::Initial;

fn build(name: &str, options: &BuildOptions, phase: Phase) -> Result<(Graph, Network)> {
    let mut graph = Graph::new();
    let network = Model::find(name).unwrap().build(&mut graph, options, phase)?;
    Ok((graph, network))
}

fn parse(layers: &str) -> Model {
    Model::parse(&format!("name = \"m\"\ninput = [3, 8, 8]\nlayers = [{layers}]"), "m").unwrap()
}

/// ALEXNET.md's table.
#[test]
fn alexnet_has_the_papers_shapes() {
    let (_, network) = build("alexnet", &BuildOptions::new(2, 2), Phase::Training).unwrap();
    let output = |name: &str| network.layers.iter().find(|l| l.name == name).unwrap().output.clone();
    for (name, shape) in [
        ("conv1", vec![96, 55, 55]),
        ("pool1", vec![96, 27, 27]),
        ("conv2", vec![256, 27, 27]),
        ("pool2", vec![256, 13, 13]),
        ("conv3", vec![384, 13, 13]),
        ("conv4", vec![384, 13, 13]),
        ("conv5", vec![256, 13, 13]),
        ("pool5", vec![256, 6, 6]),
        ("flatten", vec![9216]),
        ("fc6", vec![4096]),
        ("drop7", vec![4096]),
        ("fc8", vec![2]),
    ] {
        assert_eq!(output(name), shape, "{name}");
    }
    assert_eq!(network.layers.iter().map(|l| l.parameters).sum::<u64>(), 58_289_538);
    let names: Vec<&str> = network.parameters.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names.len(), 16);
    assert_eq!(names[..4], ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]);
    let fc6 = &network.parameters[10];
    assert_eq!((fc6.name.as_str(), &fc6.shape[..]), ("fc6.weight", &[4096, 9216][..]));
}

#[test]
fn the_papers_first_values_and_their_replacement() {
    let initial = |options: &BuildOptions| -> Vec<(String, Initial)> {
        let (_, network) = build("alexnet", options, Phase::Training).unwrap();
        network.parameters.into_iter().map(|p| (p.name, p.initial)).collect()
    };
    let options = BuildOptions::new(1, 2);
    for (name, initial) in initial(&options) {
        let (layer, kind) = name.split_once('.').unwrap();
        let expected = match (kind, layer) {
            ("weight", _) => Initial::Normal(0.01),
            (_, "conv2" | "conv4" | "conv5" | "fc6" | "fc7") => Initial::Constant(1.0),
            _ => Initial::Constant(0.0),
        };
        assert_eq!(initial, expected, "{name}");
    }
    let he = initial(&BuildOptions { init: Some(Init::He), ..options.clone() });
    assert_eq!(he[0].1, Initial::Normal((2.0_f64 / 363.0).sqrt() as f32));
    assert_eq!(he[3].1, Initial::Constant(0.0));
    assert_eq!(he[14], ("fc8.weight".into(), Initial::Constant(0.0)));
    let text = "init = \"pytorch\"\ninput = [3, 2, 2]\nlayers = [\"flatten\", { kind = \"linear\", out = 3, bias = 5 }, \
                { kind = \"linear\", out = 2 }]";
    let network = Model::parse(text, "m").unwrap().build(&mut Graph::new(), &BuildOptions::new(1, 2), Phase::Training);
    let initial_of = |name: &str| network.as_ref().unwrap().parameters.iter().find(|p| p.name == name).unwrap().initial;
    assert_eq!(initial_of("fc1.bias"), Initial::Constant(5.0));
    assert_eq!(initial_of("fc2.bias"), Initial::Uniform((1.0_f64 / 3.0).sqrt() as f32));
    let torch = initial(&BuildOptions { init: Some(Init::PyTorch), ..options });
    assert_eq!((torch[14].1, torch[15].1), (Initial::Uniform(1.0 / 64.0), Initial::Uniform(1.0 / 64.0)));
}

#[test]
fn dropout_differs_in_training_and_evaluation() {
    let ops = |phase, scaling, dropout| -> Vec<Op> {
        let options = BuildOptions { dropout_scaling: scaling, dropout, ..BuildOptions::new(1, 2) };
        let (graph, _) = build("alexnet", &options, phase).unwrap();
        graph.nodes.into_iter().filter(|n| n.layer.starts_with("drop")).map(|n| n.op).collect()
    };
    let dropout =
        |n, scaling, rate| Op::from(Dropout { rate, stream: stream::DROPOUT + n, scaling, part: Strip::WHOLE });
    use DropoutScaling::{Inverted, Paper};
    let expected = [dropout(0, Inverted, 0.5), dropout(1, Inverted, 0.5)];
    assert_eq!(ops(Phase::Training, Inverted, None), expected);
    assert_eq!(ops(Phase::Training, Paper, Some(0.2)), [dropout(0, Paper, 0.2), dropout(1, Paper, 0.2)]);
    assert_eq!(ops(Phase::Evaluation, Inverted, None), []);
    assert_eq!(ops(Phase::Evaluation, Paper, Some(0.25)), [(); 2].map(|()| Op::from(Scale { factor: 0.75 })));
    assert_eq!(ops(Phase::Training, Inverted, Some(0.0)), []);
}

#[test]
fn other_sizes_where_the_shapes_work_out() {
    let options = |side| BuildOptions { image_size: Some(side), ..BuildOptions::new(1, 2) };
    let (graph, network) = build("alexnet", &options(127), Phase::Training).unwrap();
    let fc6 = network.parameters.iter().find(|p| p.name == "fc6.weight").unwrap();
    assert_eq!(graph[fc6.value].ty.shape[..], [4096, 256 * 3 * 3]);
    let error = build("alexnet", &options(40), Phase::Training).unwrap_err().to_string();
    assert!(error.starts_with("pool5 (max_pool2d): "), "{error}");
    assert!(error.contains("40x40 is too small for alexnet, made for 224x224"), "{error}");
    let larger = BuildOptions { stored_size: Some([256, 256]), ..options(257) };
    assert!(build("alexnet", &larger, Phase::Training).unwrap_err().to_string().contains("stored as 256x256"));
    assert!(build("alexnet", &options(usize::MAX / 2), Phase::Training).is_err());
    assert!(build("alexnet", &BuildOptions::new(0, 2), Phase::Training).is_err());
}

/// As PyTorch's adaptive pooling: 13 into 6 are windows of 3, two apart; 8 into 6 are not all alike.
#[test]
fn adaptive_pools_with_equal_windows() {
    for (input, output, expected) in [
        (6, 6, Some((1, 1))),
        (7, 6, Some((2, 1))),
        (12, 6, Some((2, 2))),
        (13, 6, Some((3, 2))),
        (9, 1, Some((9, 9))),
        (8, 6, None),
        (5, 6, None),
        (5, 0, None),
        (0, 1, None),
    ] {
        assert_eq!(equal_windows(input, output), expected, "{input} into {output}");
    }
    // torchvision's network takes pictures of 256 too: 7x7 into 6x6.
    let options = BuildOptions { image_size: Some(256), ..BuildOptions::new(1, 2) };
    let (_, network) = build("alexnet-torchvision", &options, Phase::Training).unwrap();
    let output = |kind: &str| network.layers.iter().rfind(|l| l.op == kind).unwrap().output.clone();
    assert_eq!((output("max_pool2d"), output("adaptive_avg_pool2d")), (vec![256, 7, 7], vec![256, 6, 6]));
}

#[test]
fn four_layers_end_in_4x4() {
    let mut model = Model::find("four-layer").unwrap();
    model.activation = ActivationKind::Tanh;
    let mut graph = Graph::new();
    let network = model.build(&mut graph, &BuildOptions::new(1, 10), Phase::Training).unwrap();
    assert_eq!(network.layers[8].output, [64, 4, 4]);
    assert_eq!(network.layers[2].op, "tanh");
}

#[test]
fn shape_errors_name_the_layer() {
    for (layers, expected) in [
        (r#"{ name = "c", kind = "conv2d", out = 4, kernel = 3, groups = 2 }"#, "c (conv2d): 3 input and 4 output"),
        (r#"{ name = "c", kind = "conv2d", out = 0, kernel = 3 }"#, "c.weight: "),
        (r#"{ name = "c", kind = "conv2d", out = 4, kernel = 11 }"#, "c (conv2d): "),
        (r#"{ name = "c", kind = "conv2d", out = 4, kernel = 3, stride = 0 }"#, "c (conv2d): "),
        (r#"{ name = "f", kind = "linear", out = "classes" }"#, "kind \"flatten\" before"),
        (r#"{ name = "d", kind = "dropout", rate = 1.0 }"#, "d (dropout): rate = 1"),
        (r#"{ name = "f", kind = "flatten" }, { name = "l", kind = "linear", out = 4000000000 }"#, "too large"),
        (r#"{ name = "f", kind = "flatten" }, { name = "l", kind = "linear", out = 7 }"#, "l: the last layer gives"),
    ] {
        let mut graph = Graph::new();
        let error = parse(layers).build(&mut graph, &BuildOptions::new(1, 2), Phase::Training).unwrap_err();
        assert!(error.to_string().contains(expected), "{layers}\n{error}");
    }
}
