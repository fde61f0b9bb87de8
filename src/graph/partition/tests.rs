//! A cut graph computes what the whole one does, by the f64 reference.

use super::*;
use crate::graph::plan::{Place, plan};
use crate::graph::reference;
use crate::models::{BuildOptions, Model, OptimizerConfig, TrainGraph, eval_graph, train_graph};
use crate::ops::{Array, Crop};
use crate::rng::Philox;
use crate::tensor::DType;

/// Two towers, as in the paper, with normalisations that cross the cut and that do not, and dropout of planes and of features.
const TOWERS: &str = r#"
input = [3, 11, 9]
layers = [
    { kind = "conv2d", out = 6, kernel = 3, padding = 1 }, "relu", { kind = "lrn", groups = 2, alpha = 0.1 },
    { kind = "conv2d", out = 8, kernel = 3, groups = 2 }, "relu", { kind = "lrn", size = 3, alpha = 0.1 },
    { kind = "max_pool2d", kernel = 3, stride = 2 },
    { kind = "conv2d", out = 10, kernel = 3, padding = 1 }, { kind = "leaky_relu" }, { kind = "dropout", rate = 0.3 },
    "flatten",
    { kind = "linear", out = 7 }, "tanh", { kind = "dropout", rate = 0.5 },
    { kind = "linear", out = "classes" },
]"#;

/// Batch normalisation, a residual, a concatenation, an average of planes; channels that no device count divides.
const BRANCHES: &str = r#"
input = [3, 8, 8]
layers = [
    { kind = "conv2d", out = 5, kernel = 3, padding = 1, bias = false }, "batch_norm", { kind = "leaky_relu", name = "a" },
    { kind = "conv2d", out = 5, kernel = 3, padding = 1, bias = false }, "batch_norm",
    { kind = "add", from = "a", name = "sum" },
    { kind = "conv2d", out = 4, kernel = 1, name = "b" },
    { kind = "concat", from = ["sum", "b"] }, { kind = "gelu" },
    { kind = "avg_pool2d", kernel = 2 },
    { kind = "conv2d", out = 9, kernel = 3, groups = 3, padding = 1 }, "batch_norm", "sigmoid",
    "global_avg_pool2d", "flatten",
    { kind = "linear", out = "classes" },
]"#;

fn train(model: &str, batch: usize, classes: usize, optimizer: &OptimizerConfig) -> TrainGraph {
    let model = Model::parse(&format!("name = \"m\"{model}"), "m").unwrap();
    let stored = Some([model.input[1] + 2, model.input[2] + 1]);
    let options = BuildOptions {
        stored_size: stored,
        crop: Crop::Random,
        flip: true,
        weighted: true,
        mixed: true,
        ..BuildOptions::new(batch, classes)
    };
    train_graph(&model, &options, optimizer, 0.1).unwrap()
}

/// Random values for all sources of a training step.
fn values(train: &TrainGraph) -> HashMap<ValueId, Array> {
    let graph = &train.graph;
    let source = |value: &ValueId| !matches!(graph[*value].role, Role::Activation);
    let value = |value: ValueId| {
        let (ty, n) = (&graph[value].ty, graph[value].ty.shape.elements());
        let random = Philox { seed: 5, stream: 9, step: value.0 as u32 };
        let uniform = |i: usize| random.uniform(i as u32) as f64;
        let data: Vec<f64> = match (graph[value].name.as_str(), ty.dtype) {
            ("labels" | "other labels", _) => {
                (0..n).map(|i| if i == 1 { u32::MAX as f64 } else { (i % 3) as f64 }).collect()
            }
            ("counter", _) => vec![3.0, 0.0, 7.0, 0.0],
            ("schedule", _) => vec![0.05, 0.1, 0.01, 0.0],
            (_, DType::U8) => (0..n).map(|i| (uniform(i) * 255.0).floor()).collect(),
            _ if graph[value].role == Role::State => (0..n).map(uniform).collect(),
            _ => (0..n).map(|i| uniform(i) - 0.5).collect(),
        };
        (value, Array { shape: ty.shape.clone(), data })
    };
    (0..graph.values.len()).map(ValueId).filter(source).map(value).collect()
}

/// A device's range of an array.
fn cut(array: &Array, layout: &Layout, device: usize) -> Array {
    let Some((axis, range)) = layout.range(device) else { return array.clone() };
    let inner: usize = array.shape[axis + 1..].iter().product();
    let row = array.shape[axis] * inner;
    let rows = array.data.chunks(row).flat_map(|row| row[range.start * inner..range.end * inner].to_vec());
    let ty = layout.local(&TensorType::f32(array.shape.clone()), device);
    Array { shape: ty.shape, data: rows.collect() }
}

/// What each parameter and state is after the step, by name.
fn updated(graph: &Graph, values: &HashMap<ValueId, Array>) -> HashMap<String, Array> {
    let mut updated = HashMap::new();
    for node in &graph.nodes {
        for &(output, input) in node.op.aliases() {
            let source = &graph[node.inputs[input]];
            if matches!(source.role, Role::Parameter | Role::State) {
                updated.insert(source.name.clone(), values[&node.outputs[output]].clone());
            }
        }
    }
    updated
}

/// Goes through the parts' stages in an order in which devices could run them: each as far as what it has received lets it.
fn walk(partition: &Partition, mut each: impl FnMut(usize, &Part, &crate::graph::Stage)) {
    let mut next = vec![0; partition.parts.len()];
    let mut arrived: Vec<HashSet<ValueId>> = vec![HashSet::new(); next.len()];
    loop {
        let mut moved = false;
        for (d, part) in partition.parts.iter().enumerate() {
            while let Some(stage) = part.graph.stages.get(next[d]) {
                if !stage.received.iter().all(|value| arrived[d].contains(value)) {
                    break;
                }
                (next[d], moved) = (next[d] + 1, true);
                each(d, part, stage);
                for transfer in partition.transfers.iter().filter(|t| t.from.0 == d && stage.sent.contains(&t.from.1)) {
                    assert!(arrived[transfer.to.0].insert(transfer.to.1), "sent twice: {transfer:?}");
                }
            }
        }
        if !moved {
            break;
        }
    }
    for (part, next) in partition.parts.iter().zip(next) {
        assert_eq!(next, part.graph.stages.len(), "a device waits for ever");
    }
}

/// What the parts compute.
fn run(partition: &Partition, given: &HashMap<ValueId, Array>) -> Vec<HashMap<ValueId, Array>> {
    let local = |device: usize| {
        let of =
            |(value, source): (&ValueId, &Source)| (source.locals[device], cut(&given[value], &source.layout, device));
        partition.sources.iter().map(of).collect::<HashMap<_, _>>()
    };
    let mut values: Vec<HashMap<ValueId, Array>> = (0..partition.parts.len()).map(local).collect();
    walk(partition, |d, part, stage| {
        let mut graph = part.graph.clone();
        graph.nodes = graph.nodes[stage.nodes.clone()].to_vec();
        values[d] = reference::run(&graph, &values[d]);
        for transfer in partition.transfers.iter().filter(|t| t.from.0 == d && stage.sent.contains(&t.from.1)) {
            let sent = values[d][&transfer.from.1].clone();
            values[transfer.to.0].insert(transfer.to.1, sent);
        }
    });
    values
}

fn near(what: &str, got: &Array, expected: &Array, tolerance: f64) {
    assert_eq!(got.shape, expected.shape, "{what}");
    for (i, (got, expected)) in got.data.iter().zip(&expected.data).enumerate() {
        assert!(
            (got - expected).abs() <= tolerance * (1.0 + expected.abs()),
            "{what}[{i}]: {got}, expected {expected}"
        );
    }
}

fn check(model: &str, batch: usize, devices: usize, parallel: Parallel, optimizer: &OptimizerConfig, tolerance: f64) {
    let train = train(model, batch, 3, optimizer);
    let given = values(&train);
    let outputs = [train.loss, train.logits];
    let whole = reference::run(&train.graph, &given);
    let partition = partition(&train.graph, &outputs, devices, parallel, &HashMap::new()).unwrap();
    let parts = run(&partition, &given);
    for (d, part) in partition.parts.iter().enumerate() {
        for &(number, value) in &part.outputs {
            let expected = cut(&whole[&outputs[number]], &partition.outputs[number], d);
            near(&format!("output {number} of {d}"), &parts[d][&value], &expected, tolerance);
        }
    }
    let expected = updated(&train.graph, &whole);
    assert!(expected.len() >= train.parameters.len());
    for (d, part) in partition.parts.iter().enumerate() {
        let got = updated(&part.graph, &parts[d]);
        for (value, source) in &partition.sources {
            let name = &train.graph[*value].name;
            if let Some(whole) = expected.get(name) {
                near(&format!("{name} of {d}"), &got[name], &cut(whole, &source.layout, d), tolerance);
            }
        }
    }
}

#[test]
fn a_cut_model_is_the_whole_one() {
    for devices in [2, 3] {
        for optimizer in [OptimizerConfig::paper(), OptimizerConfig::adamw(0.01)] {
            check(TOWERS, 3, devices, Parallel::Model, &optimizer, 1e-10);
        }
        check(BRANCHES, 3, devices, Parallel::Model, &OptimizerConfig::sgd(0.9, 1e-3), 1e-10);
    }
}

#[test]
fn a_cut_batch_is_the_whole_one() {
    for devices in [2, 3] {
        for optimizer in [OptimizerConfig::paper(), OptimizerConfig::adamw(0.01)] {
            check(TOWERS, 5, devices, Parallel::Data, &optimizer, 1e-10);
        }
        // The devices' shares of the rows are 32-bit constants.
        check(BRANCHES, 5, devices, Parallel::Data, &OptimizerConfig::sgd(0.9, 1e-3), 1e-6);
    }
}

/// Each device of the two has half of every layer, and they talk only where the paper's do.
#[test]
fn the_papers_towers_exchange_at_conv3_and_the_fully_connected_layers() {
    let model = Model::find("alexnet-2gpu").unwrap();
    let train = train_graph(&model, &BuildOptions::new(4, 2), &OptimizerConfig::paper(), 0.0).unwrap();
    let outputs = [train.loss, train.logits];
    let partition = partition(&train.graph, &outputs, 2, Parallel::Model, &HashMap::new()).unwrap();
    let report = Report::new(&train.graph, &outputs, &partition);
    // What pool2, pool5 (a view of it), fc6 and fc7 give, the logits, and the gradients of the first four: half of each, both ways.
    let [pool2, pool5, fc] = [256 * 13 * 13, 9216, 4096].map(|elements| 4 * 4 * elements as u64);
    assert_eq!(report.bytes_per_step, 2 * (pool2 + pool5 + 2 * fc) + 4 * 4 * 2);
    let layers: Vec<&str> = report.edges.iter().map(|edge| edge.layer.as_str()).collect();
    for edge in &report.edges {
        let allowed = ["conv3", "pool2", "fc6", "pool5", "fc7", "fc8", "loss", "relu6", "relu7", "drop6", "drop7"];
        assert!(allowed.contains(&edge.layer.as_str()), "{layers:?}");
    }
    for memory in &report.memory {
        assert!(memory.parameters * 2 <= report.one_device.parameters + 8, "{report:?}");
        assert!(memory.state * 2 <= report.one_device.state + 8, "{report:?}");
        assert!(memory.slots < report.one_device.slots, "{report:?}");
    }
}

/// While something is on its way there is something to compute.
#[test]
fn transfers_overlap_with_work() {
    let model = Model::find("alexnet-2gpu").unwrap();
    let train = train_graph(&model, &BuildOptions::new(4, 2), &OptimizerConfig::adam(0.0), 0.0).unwrap();
    let outputs = [train.loss, train.logits];
    for (parallel, value, work) in [
        // The gradient that conv3 gives back, while that of its weight is computed.
        (Parallel::Model, "conv3.conv2d_backward_input", "conv2d_backward_weight"),
        (Parallel::Model, "fc7.linear_backward_input", "linear_update"),
        // fc6's weight comes during the convolutions, the gradients of the last layers' weights go while those before are computed.
        (Parallel::Data, "fc6.weight", "conv2d_bias_relu"),
        (Parallel::Data, "fc7.weight.gradient", "linear_backward_input"),
        (Parallel::Data, "conv4.conv2d_backward_weight", "conv2d_backward_weight"),
    ] {
        let partition = partition(&train.graph, &outputs, 2, parallel, &HashMap::new()).unwrap();
        for (d, part) in partition.parts.iter().enumerate() {
            let of = |transfer: &&Transfer| transfer.value == value;
            let sent = partition.transfers.iter().filter(of).find(|transfer| transfer.from.0 == d).unwrap().from.1;
            let received = partition.transfers.iter().filter(of).find(|transfer| transfer.to.0 == d).unwrap().to.1;
            let stages = &part.graph.stages;
            let first = stages.iter().position(|stage| stage.sent.contains(&sent)).unwrap();
            let last = stages.iter().position(|stage| stage.received.contains(&received)).unwrap();
            let between = stages[first + 1..last].iter().flat_map(|stage| &part.graph.nodes[stage.nodes.clone()]);
            assert!(between.clone().any(|node| node.op.name() == work), "{value}: stages {first} to {last}");
        }
    }
}

/// The batch's activations are halved, and so is what lasts.
#[test]
fn memory_falls() {
    let model = Model::find("alexnet").unwrap();
    let train = train_graph(&model, &BuildOptions::new(64, 2), &OptimizerConfig::adam(0.0), 0.0).unwrap();
    let outputs = [train.loss, train.logits];
    for parallel in [Parallel::Model, Parallel::Data] {
        let partition = partition(&train.graph, &outputs, 2, parallel, &HashMap::new()).unwrap();
        let report = Report::new(&train.graph, &outputs, &partition);
        for memory in &report.memory {
            assert!(
                memory.parameters + memory.state < (report.one_device.parameters + report.one_device.state) * 51 / 100
            );
            assert!(memory.total() < report.one_device.total(), "{parallel:?} {memory:?} {:?}", report.one_device);
        }
    }
}

/// Fails unless, at every node and stage, what is read, was received or is still to be sent has its own memory, and is there.
fn check_memory(part: &Part) {
    let (graph, outputs) = (&part.graph, part.output_values());
    let places = plan(graph, &outputs).places;
    let mut nodes = graph.nodes.iter().enumerate();
    assert!(nodes.all(|(n, node)| graph[node.outputs[0]].producer == Some(n)), "a node comes twice");
    // Whose memory each place is, as the step goes on.
    let mut owner: HashMap<usize, ValueId> = HashMap::new();
    let mut root: Vec<ValueId> = (0..graph.values.len()).map(ValueId).collect();
    let slot = |value: ValueId| match places[value.0] {
        Place::Slot(slot) => Some(slot),
        _ => None,
    };
    let owned = |owner: &HashMap<usize, ValueId>, root: &[ValueId], value: ValueId| {
        if let Some(slot) = slot(value) {
            assert_eq!(owner.get(&slot), Some(&root[value.0]), "{:?}", graph[value]);
        }
    };
    for stage in &graph.stages {
        for &value in &stage.received {
            owner.insert(slot(value).expect("what is received has memory"), value);
        }
        for node in &graph.nodes[stage.nodes.clone()] {
            node.inputs.iter().for_each(|&input| owned(&owner, &root, input));
            for &(output, input) in node.op.aliases() {
                root[node.outputs[output].0] = root[node.inputs[input].0];
            }
            for &output in node.outputs.iter().filter(|output| root[output.0] == **output) {
                owner.extend(slot(output).map(|slot| (slot, output)));
            }
            node.inputs.iter().for_each(|&input| owned(&owner, &root, input));
        }
        stage.sent.iter().for_each(|&value| owned(&owner, &root, value));
    }
}

#[test]
fn live_values_keep_their_memory() {
    for (text, parallel, devices) in [
        (TOWERS, Parallel::Model, 2),
        (TOWERS, Parallel::Data, 2),
        (BRANCHES, Parallel::Model, 2),
        (BRANCHES, Parallel::Model, 3),
        (BRANCHES, Parallel::Data, 3),
    ] {
        let train = train(text, 4, 3, &OptimizerConfig::paper());
        let partition =
            partition(&train.graph, &[train.loss, train.logits], devices, parallel, &HashMap::new()).unwrap();
        partition.parts.iter().for_each(check_memory);
    }
}

/// No device waits for ever, whatever the network.
#[test]
fn the_zoo_can_be_cut() {
    for name in Model::zoo() {
        let model = Model::find(name).unwrap();
        let train = train_graph(&model, &BuildOptions::new(5, 10), &OptimizerConfig::adam(0.0), 0.0).unwrap();
        for (parallel, devices) in
            [(Parallel::Model, 2), (Parallel::Data, 2), (Parallel::Model, 3), (Parallel::Data, 5)]
        {
            let outputs = [train.loss, train.logits];
            let partition = partition(&train.graph, &outputs, devices, parallel, &HashMap::new()).unwrap();
            walk(&partition, |_, _, _| {});
            partition.parts.iter().for_each(check_memory);
            let updates = |graph: &Graph| graph.nodes.iter().filter(|node| schedule::updates(graph, node)).count();
            for part in &partition.parts {
                assert_eq!(updates(&part.graph), updates(&updates_apart(&train.graph)), "{name}");
            }
        }
    }
}

/// The same in evaluation, and for fewer classes than devices, so that one of them alone has the logits.
#[test]
fn no_device_waits_for_ever() {
    for name in Model::zoo() {
        let model = Model::find(name).unwrap();
        for classes in [2, 3, 10] {
            let options = BuildOptions { fold: true, ..BuildOptions::new(5, classes) };
            let eval = eval_graph(&model, &options).unwrap();
            let train = train_graph(&model, &options, &OptimizerConfig::adam(0.0), 0.0).unwrap();
            for devices in 2..=5 {
                for parallel in [Parallel::Model, Parallel::Data] {
                    for order in [Order::Overlapping, Order::AsGiven] {
                        let cut = |graph: &Graph, outputs: &[ValueId]| {
                            partition_in(&[order], graph, outputs, devices, parallel, &HashMap::new()).unwrap()
                        };
                        walk(&cut(&eval.graph, &[eval.logits]), |_, _, _| {});
                        walk(&cut(&train.graph, &[train.loss, train.logits]), |_, _, _| {});
                    }
                }
            }
        }
    }
}

#[test]
fn too_many_devices_are_refused() {
    let train = train(TOWERS, 3, 3, &OptimizerConfig::paper());
    for (devices, parallel, part) in [(11, Parallel::Model, "every layer"), (4, Parallel::Data, "the batch")] {
        let error = partition(&train.graph, &[train.loss], devices, parallel, &HashMap::new()).map(drop).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(part) && error.contains(&devices.to_string()), "{error}");
    }
}

/// A layer that is too narrow is computed by every device; the others are cut.
#[test]
fn narrow_layers_are_kept_whole() {
    check(TOWERS, 2, 4, Parallel::Model, &OptimizerConfig::paper(), 1e-10);
    check(BRANCHES, 2, 4, Parallel::Model, &OptimizerConfig::paper(), 1e-10);
}
