//! Rewrites of a graph that make its step faster or smaller, and change no result by more than rounding. Values keep their
//! numbers; one that no node computes any more has no memory.

use super::{Graph, Node, Role, ValueId};
use crate::ops::{Activation, ActivationKind, Biased, LinearUpdate, MultiUpdate, Op, Product, UpdateRule};

/// Which rewrites are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrites {
    /// The gradient of a linear layer's weight and the optimizer's step on it become one node.
    pub linear_update: bool,
    /// The optimizer's steps on small parameters become one node for several.
    pub multi_update: bool,
    /// A convolution or linear layer, its bias and its ReLU become one node.
    pub epilogues: bool,
    /// What updates a parameter runs as soon as it can, and not at the step's end: gradients live shorter.
    pub early_updates: bool,
}

impl Rewrites {
    /// The graph as it was built.
    pub const NONE: Rewrites =
        Rewrites { linear_update: false, multi_update: false, epilogues: false, early_updates: false };
}

impl Default for Rewrites {
    /// All of them.
    fn default() -> Self {
        Rewrites { linear_update: true, multi_update: true, epilogues: true, early_updates: true }
    }
}

/// Rewrites `graph`; the values in `outputs` are still computed.
pub fn fuse(graph: &mut Graph, rewrites: Rewrites, outputs: &[ValueId]) {
    if rewrites.linear_update {
        fuse_linear_updates(graph, outputs);
    }
    if rewrites.multi_update {
        fuse_small_updates(graph);
    }
    if rewrites.epilogues {
        fuse_epilogues(graph, outputs);
    }
    if rewrites.early_updates {
        hoist_updates(graph);
    }
    graph.number_producers();
}

/// Where the gradient of a linear layer's weight has no other reader than the optimizer.
fn fuse_linear_updates(graph: &mut Graph, outputs: &[ValueId]) {
    let mut fused = vec![None; graph.nodes.len()];
    for (at, node) in graph.nodes.iter().enumerate() {
        let (Some(rule), Some(&gradient)) = (UpdateRule::of(&node.op), node.inputs.get(1)) else { continue };
        let readers = graph.nodes.iter().filter(|node| node.inputs.contains(&gradient)).count();
        let maker =
            graph[gradient].producer.filter(|&maker| matches!(graph.nodes[maker].op, Op::LinearBackwardWeight(_)));
        if let (Some(maker), 1, false) = (maker, readers, outputs.contains(&gradient)) {
            let own = node.inputs.iter().copied().filter(|&input| input != gradient);
            let inputs = graph.nodes[maker].inputs.iter().copied().chain(own).collect();
            fused[at] = Some((maker, Node { op: LinearUpdate { rule }.into(), inputs, ..node.clone() }));
        }
    }
    let gone: Vec<usize> = fused.iter().flatten().map(|(maker, _)| *maker).collect();
    gone.iter().flat_map(|&maker| graph.nodes[maker].outputs.clone()).for_each(|v| graph.values[v.0].producer = None);
    let nodes = std::mem::take(&mut graph.nodes).into_iter().zip(fused).enumerate();
    graph.nodes = nodes
        .filter(|(at, _)| !gone.contains(at))
        .map(|(_, (node, fused))| fused.map_or(node, |(_, fused)| fused))
        .collect();
}

/// Elements of a parameter, at most, whose step takes a GPU no longer than to start it; its gradient waits for those of others.
const SMALL: usize = 1 << 16;

/// Steps that are alike and of small parameters, several at a time in the place of the last of them.
fn fuse_small_updates(graph: &mut Graph) {
    let small = |node: &Node| {
        let rule = UpdateRule::of(&node.op)?;
        (graph[node.inputs[0]].ty.shape.elements() <= SMALL).then_some(rule)
    };
    let steps: Vec<_> = graph.nodes.iter().enumerate().filter_map(|(at, node)| Some((at, small(node)?))).collect();
    let alike = steps.chunk_by(|(_, a), (_, b)| a.is_like(b)).flat_map(|steps| steps.chunks(MultiUpdate::MOST));
    let mut fused = vec![None; graph.nodes.len()];
    let mut gone = vec![false; graph.nodes.len()];
    for steps in alike.filter(|steps| steps.len() > 1) {
        let nodes = || steps.iter().map(|&(at, _)| &graph.nodes[at]);
        let own = nodes().flat_map(|node| &node.inputs[..node.inputs.len() - 1]);
        let (last, schedule) = (steps[steps.len() - 1].0, nodes().flat_map(|node| node.inputs.last()).take(1));
        steps.iter().for_each(|&(at, _)| gone[at] = at != last);
        fused[last] = Some(Node {
            layer: format!("{} parameters", steps.len()),
            inputs: own.chain(schedule).copied().collect(),
            outputs: nodes().flat_map(|node| &node.outputs).copied().collect(),
            op: MultiUpdate { rules: steps.iter().map(|(_, rule)| rule.clone()).collect() }.into(),
        });
    }
    let nodes = std::mem::take(&mut graph.nodes).into_iter().zip(fused).zip(gone);
    graph.nodes = nodes.filter(|(_, gone)| !gone).map(|((node, fused), _)| fused.unwrap_or(node)).collect();
}

/// The graph with each small parameter's step as a node of its own, as early as it can be.
pub(super) fn updates_apart(graph: &Graph) -> Graph {
    let mut apart = graph.clone();
    if !graph.nodes.iter().any(|node| matches!(node.op, Op::MultiUpdate(_))) {
        return apart;
    }
    let named = |step: Node| Node { layer: graph[step.inputs[0]].name.clone(), ..step };
    let nodes = graph.nodes.iter().flat_map(|node| match &node.op {
        Op::MultiUpdate(steps) => steps.steps(node).map(named).collect(),
        _ => vec![node.clone()],
    });
    apart.nodes = nodes.collect();
    hoist_updates(&mut apart);
    apart.number_producers();
    apart
}

/// Where nobody else reads a product's sums, and then those with the bias.
fn fuse_epilogues(graph: &mut Graph, outputs: &[ValueId]) {
    let mut gone = vec![false; graph.nodes.len()];
    for at in 0..graph.nodes.len() {
        let Some(product) = Product::of(&graph.nodes[at].op) else { continue };
        let Some(bias) = only_reader(graph, at, outputs).filter(|&n| matches!(graph.nodes[n].op, Op::Bias(_))) else {
            continue;
        };
        let is_relu = |&n: &usize| graph.nodes[n].op == Op::Activation(Activation { kind: ActivationKind::Relu });
        let relu = only_reader(graph, bias, outputs).filter(is_relu);
        let last = relu.unwrap_or(bias);
        let inputs = [graph.nodes[at].inputs[0], graph.nodes[at].inputs[1], graph.nodes[bias].inputs[1]].into();
        for node in [Some(at), relu.map(|_| bias)].into_iter().flatten() {
            graph.values[graph.nodes[node].outputs[0].0].producer = None;
        }
        gone[bias] = true;
        relu.into_iter().for_each(|relu| gone[relu] = true);
        let (op, result) = (Biased { product, relu: relu.is_some() }.into(), graph.nodes[last].outputs.clone());
        graph.nodes[at] = Node { op, inputs, outputs: result, ..graph.nodes[at].clone() };
    }
    let mut gone = gone.into_iter();
    graph.nodes.retain(|_| gone.next() != Some(true));
}

/// The node that reads the first output of node `of` as its first input, if no other does and it is none of `outputs`.
fn only_reader(graph: &Graph, of: usize, outputs: &[ValueId]) -> Option<usize> {
    let value = graph.nodes[of].outputs[0];
    let mut readers = (0..graph.nodes.len()).filter(|&n| graph.nodes[n].inputs.contains(&value));
    match (readers.next(), readers.next()) {
        (Some(reader), None) if !outputs.contains(&value) => (graph.nodes[reader].inputs[0] == value).then_some(reader),
        _ => None,
    }
}

/// Moves each node that updates a parameter behind the last node that makes one of its inputs or reads what it overwrites.
fn hoist_updates(graph: &mut Graph) {
    let updated = |node: &Node| -> Vec<ValueId> {
        let inputs = node.op.aliases().iter().map(|&(_, input)| node.inputs[input]);
        inputs.filter(|&input| matches!(graph[input].role, Role::Parameter | Role::State)).collect()
    };
    let (updates, others): (Vec<Node>, Vec<Node>) =
        graph.nodes.iter().cloned().partition(|node| !updated(node).is_empty());
    // Of each update: how many of the others must run before.
    let after = |update: &Node| {
        let overwritten = updated(update);
        let before = |node: &Node| {
            node.outputs.iter().any(|output| update.inputs.contains(output))
                || node.inputs.iter().any(|input| overwritten.contains(input))
        };
        others.iter().rposition(before).map_or(0, |last| last + 1)
    };
    let mut places: Vec<(usize, Node)> = updates.iter().map(|update| (after(update), update.clone())).collect();
    places.sort_by_key(|(place, _)| *place);
    let mut places = places.into_iter().peekable();
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    for (at, node) in others.into_iter().enumerate() {
        while let Some((_, update)) = places.next_if(|(place, _)| *place <= at) {
            nodes.push(update);
        }
        nodes.push(node);
    }
    nodes.extend(places.map(|(_, update)| update));
    graph.nodes = nodes;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{BuildOptions, Model, OptimizerConfig, train_graph};

    fn graph(rewrites: Rewrites) -> Graph {
        let model = Model::find("alexnet").unwrap();
        let options = BuildOptions { rewrites, ..BuildOptions::new(2, 2) };
        train_graph(&model, &options, &OptimizerConfig::adam(0.0), 0.0).unwrap().graph
    }

    #[test]
    fn gradients_of_linear_weights_are_not_written() {
        let ops = |graph: &Graph, name: &str| graph.nodes.iter().filter(|node| node.op.name() == name).count();
        let (plain, fused) = (graph(Rewrites::NONE), graph(Rewrites { linear_update: true, ..Rewrites::NONE }));
        assert_eq!([ops(&plain, "linear_backward_weight"), ops(&plain, "linear_update")], [3, 0]);
        assert_eq!([ops(&fused, "linear_backward_weight"), ops(&fused, "linear_update")], [0, 3]);
        assert_eq!(plain.nodes.len(), fused.nodes.len() + 3);
    }

    /// In AlexNet these are eight biases and the weights of conv1 and fc8.
    #[test]
    fn small_parameters_are_updated_together() {
        let (plain, fused) = (graph(Rewrites::NONE), graph(Rewrites { multi_update: true, ..Rewrites::NONE }));
        let counts = fused.nodes.iter().filter_map(|node| match &node.op {
            Op::MultiUpdate(steps) => Some(steps.rules.len()),
            _ => None,
        });
        assert_eq!(counts.collect::<Vec<_>>(), [6, 4]);
        // Each is the steps that it took the place of.
        let of = |nodes: Vec<Node>| {
            let steps = nodes.into_iter().filter(|node| UpdateRule::of(&node.op).is_some());
            let mut steps: Vec<_> =
                steps.map(|Node { op, layer, inputs, outputs }| (layer, op, inputs, outputs)).collect();
            steps.sort_by(|(a, ..), (b, ..)| a.cmp(b));
            steps
        };
        assert_eq!(of(updates_apart(&fused).nodes), of(plain.nodes));
    }

    /// In AlexNet every layer but the last ends with ReLU.
    #[test]
    fn sums_are_finished_where_they_are_made() {
        let names = ["conv2d_bias_relu", "linear_bias_relu", "linear_bias", "conv2d", "linear", "bias", "relu"];
        let count = |graph: &Graph| names.map(|name| graph.nodes.iter().filter(|n| n.op.name() == name).count());
        assert_eq!(count(&graph(Rewrites::NONE)), [0, 0, 0, 5, 3, 8, 7]);
        assert_eq!(count(&graph(Rewrites::default())), [5, 2, 1, 0, 0, 0, 0]);
    }

    /// What another node reads, or the host, is still there.
    #[test]
    fn sums_that_are_read_are_kept() {
        let mut graph = Graph::new();
        let source = |graph: &mut Graph, name: &str, shape: Vec<usize>| {
            graph.source(name, crate::tensor::TensorType::f32(shape), Role::Parameter).unwrap()
        };
        let (x, w, b) = (
            source(&mut graph, "x", vec![2, 3]),
            source(&mut graph, "w", vec![4, 3]),
            source(&mut graph, "b", vec![4]),
        );
        let sums = graph.apply("fc", crate::ops::Linear, &[x, w]).unwrap();
        let biased = graph.apply("fc", crate::ops::Bias, &[sums, b]).unwrap();
        let y = graph.apply("relu", Activation { kind: ActivationKind::Relu }, &[biased]).unwrap();
        let ops = |graph: &Graph, outputs: &[ValueId]| {
            let mut graph = graph.clone();
            fuse(&mut graph, Rewrites::default(), outputs);
            graph.nodes.iter().map(|node| node.op.name()).collect::<Vec<_>>()
        };
        assert_eq!(ops(&graph, &[y]), ["linear_bias_relu"]);
        assert_eq!(ops(&graph, &[y, biased]), ["linear_bias", "relu"]);
        assert_eq!(ops(&graph, &[y, sums]), ["linear", "bias", "relu"]);
        graph.apply("sum", crate::ops::Add, &[y, biased]).unwrap();
        assert_eq!(ops(&graph, &[y]), ["linear_bias", "relu", "add"]);
    }

    /// Nothing reads a parameter after its update, or a value before it is made.
    #[test]
    fn the_order_stays_right() {
        for all in [false, true] {
            let early = Rewrites { early_updates: true, ..Rewrites::NONE };
            let graph = graph(if all { Rewrites::default() } else { early });
            let mut made: Vec<bool> = graph.values.iter().map(|value| value.role != Role::Activation).collect();
            let mut overwritten = vec![false; graph.values.len()];
            for (at, node) in graph.nodes.iter().enumerate() {
                for input in &node.inputs {
                    assert!(made[input.0] && !overwritten[input.0], "{node:?}: {}", graph[*input].name);
                }
                node.op.aliases().iter().for_each(|&(_, input)| {
                    overwritten[node.inputs[input].0] = graph[node.inputs[input]].role != Role::Activation;
                });
                node.outputs.iter().for_each(|output| made[output.0] = true);
                assert!(node.outputs.iter().all(|output| graph[*output].producer == Some(at)));
            }
        }
    }
}
