//! The order of a device's nodes, and where it is cut into stages: what is sent is made early, what is received is used late, so that
//! a transfer overlaps with the work between.

use std::collections::{HashMap, HashSet};

use super::{Part, Transfer};
use crate::graph::{Graph, Node, Role, Stage, ValueId};

/// Updates of parameters that wait for what other devices send, at most: they hold gradients.
const WAITING: usize = 2;

/// Bytes of parameters that are sent in one go at a step's beginning, if no single one has more.
const TOGETHER: usize = 4 << 20;

/// What a device has to do with the others.
pub(super) struct Mail {
    /// Values that they need.
    pub sent: Vec<ValueId>,
    /// Of the values received, those that come without anything being computed for them.
    pub early: Vec<ValueId>,
}

/// In which order a device's nodes run.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// So that transfers overlap with work.
    Overlapping,
    /// As in the whole graph: each device sends before it waits for what is made later, so that none waits for ever.
    AsGiven,
}

/// Drops nodes that nothing needs, orders the others, and cuts them into stages.
pub(super) fn schedule(part: &mut Part, mail: &Mail, order: Order) {
    let outputs = part.output_values();
    let graph = &mut part.graph;
    prune(graph, &mail.sent, &outputs);
    if let Order::Overlapping = order {
        graph.nodes = Ordering::new(graph, &mail.sent, &outputs).run();
    }
    graph.number_producers();
    graph.stages = stages(graph, mail);
}

/// Whether a node overwrites a parameter or state.
pub(super) fn updates(graph: &Graph, node: &Node) -> bool {
    let overwritten = node.op.aliases().iter().map(|&(_, input)| &graph[node.inputs[input]]);
    let resident = |role| matches!(role, Role::Parameter | Role::State);
    !is_view(node) && overwritten.into_iter().any(|value| resident(value.role))
}

fn is_view(node: &Node) -> bool {
    matches!(node.op, crate::ops::Op::Reshape(_))
}

fn prune(graph: &mut Graph, sent: &[ValueId], outputs: &[ValueId]) {
    let mut needed = vec![false; graph.values.len()];
    sent.iter().chain(outputs).for_each(|value| needed[value.0] = true);
    let mut kept = Vec::new();
    for node in graph.nodes.iter().rev() {
        if updates(graph, node) || node.outputs.iter().any(|output| needed[output.0]) {
            node.inputs.iter().for_each(|input| needed[input.0] = true);
            kept.push(node.clone());
        }
    }
    kept.reverse();
    graph.nodes = kept;
}

/// Whether all stages can run, none of a device waiting for what another sends only after something of the first.
pub(super) fn runs(parts: &[Part], transfers: &[Transfer]) -> bool {
    let mut next = vec![0; parts.len()];
    let mut arrived: Vec<HashSet<ValueId>> = vec![HashSet::new(); parts.len()];
    loop {
        let mut moved = false;
        for (device, part) in parts.iter().enumerate() {
            while let Some(stage) = part.graph.stages.get(next[device])
                && stage.received.iter().all(|value| arrived[device].contains(value))
            {
                (next[device], moved) = (next[device] + 1, true);
                let sent = transfers.iter().filter(|t| t.from.0 == device && stage.sent.contains(&t.from.1));
                sent.for_each(|transfer| {
                    arrived[transfer.to.0].insert(transfer.to.1);
                });
            }
        }
        if !moved {
            return parts.iter().zip(next).all(|(part, next)| next == part.graph.stages.len());
        }
    }
}

/// The nodes on their way into a new order.
struct Ordering<'a> {
    graph: &'a Graph,
    /// The node that makes a value.
    maker: HashMap<ValueId, usize>,
    /// Nodes that only make what is sent; each follows what it is made of at once, unless it would have to wait.
    only_sent: Vec<bool>,
    /// Nodes that read what is received; each comes when its result is needed.
    late: Vec<bool>,
    done: Vec<bool>,
    order: Vec<usize>,
}

impl<'a> Ordering<'a> {
    fn new(graph: &'a Graph, sent: &[ValueId], outputs: &[ValueId]) -> Self {
        let nodes = graph.nodes.len();
        let mut maker = HashMap::new();
        let mut readers: HashMap<ValueId, Vec<usize>> = HashMap::new();
        for (n, node) in graph.nodes.iter().enumerate() {
            maker.extend(node.outputs.iter().map(|&output| (output, n)));
            node.inputs.iter().for_each(|&input| readers.entry(input).or_default().push(n));
        }
        let mut only_sent = vec![false; nodes];
        for n in (0..nodes).rev() {
            let node = &graph.nodes[n];
            let of = |output: &ValueId| readers.get(output).into_iter().flatten();
            let by_senders = node.outputs.iter().flat_map(of).all(|&reader| only_sent[reader]);
            let leads = node.outputs.iter().any(|output| sent.contains(output) || of(output).next().is_some());
            only_sent[n] =
                by_senders && leads && !updates(graph, node) && !node.outputs.iter().any(|o| outputs.contains(o));
        }
        let received = |value: &ValueId| graph[*value].role == Role::Received;
        let late = graph.nodes.iter().map(|node| node.inputs.iter().any(received)).collect();
        Ordering { graph, maker, only_sent, late, done: vec![false; nodes], order: Vec::new() }
    }

    fn makers(&self, n: usize) -> Vec<usize> {
        self.graph.nodes[n].inputs.iter().filter_map(|input| self.maker.get(input).copied()).collect()
    }

    fn run(mut self) -> Vec<Node> {
        // Parts of parameters are sent before anything runs.
        for n in 0..self.done.len() {
            if self.only_sent[n] && !self.late[n] && self.makers(n).iter().all(|&maker| self.done[maker]) {
                self.push(n);
            }
        }
        let mut waiting = std::collections::VecDeque::new();
        for n in 0..self.done.len() {
            let waits = self.makers(n).iter().any(|&maker| self.late[maker] && !self.done[maker]) || self.late[n];
            match (updates(self.graph, &self.graph.nodes[n]), waits) {
                (true, true) => waiting.push_back(n),
                _ if self.late[n] => {}
                _ => self.push(n),
            }
            if waiting.len() > WAITING {
                waiting.pop_front().into_iter().for_each(|update| self.push(update));
            }
        }
        waiting.into_iter().for_each(|update| self.push(update));
        // What is read by nobody here, but is an output or sent.
        (0..self.done.len()).for_each(|n| self.push(n));
        self.order.iter().map(|&n| self.graph.nodes[n].clone()).collect()
    }

    /// Puts a node next, after those that it needs.
    fn push(&mut self, n: usize) {
        if self.done[n] {
            return;
        }
        self.makers(n).into_iter().for_each(|maker| self.push(maker));
        // What follows a maker at once may have been this node.
        if std::mem::replace(&mut self.done[n], true) {
            return;
        }
        self.order.push(n);
        for next in n + 1..self.done.len() {
            let makers = self.makers(next);
            let ready = makers.contains(&n) && makers.iter().all(|&maker| self.done[maker]);
            if self.only_sent[next] && !self.late[next] && ready {
                self.push(next);
            }
        }
    }
}

/// A stage ends with what is sent, and before what has to be awaited. Sources that are sent have stages of their own, so that what is
/// needed first arrives first; of these a layer awaits all at once.
fn stages(graph: &Graph, Mail { sent, early }: &Mail) -> Vec<Stage> {
    let (mut stages, mut size) = (Vec::<Stage>::new(), 0);
    for &value in sent.iter().filter(|&&value| graph[value].producer.is_none()) {
        if stages.iter().any(|stage| stage.sent.contains(&value)) {
            continue;
        }
        size += graph[value].ty.bytes();
        match stages.last_mut().filter(|_| size <= TOGETHER) {
            Some(stage) => stage.sent.push(value),
            None => {
                size = graph[value].ty.bytes();
                stages.push(Stage { sent: vec![value], ..Stage::default() });
            }
        }
    }
    let mut known: Vec<ValueId> = Vec::new();
    let mut stage = Stage::default();
    for (n, node) in graph.nodes.iter().enumerate() {
        let mut awaited: Vec<ValueId> = node.inputs.clone();
        awaited.retain(|value| graph[*value].role == Role::Received && !known.contains(value));
        awaited.sort();
        awaited.dedup();
        if !awaited.is_empty() {
            let layer = graph.nodes[n + 1..].iter().take_while(|next| next.layer == node.layer);
            awaited.extend(layer.flat_map(|next| &next.inputs).filter(|value| early.contains(value)));
            awaited.retain(|value| !known.contains(value));
            awaited.sort();
            awaited.dedup();
            // What only was looked at another way can wait for more.
            if !stage.sent.is_empty() || !stage.nodes.clone().all(|n| is_view(&graph.nodes[n])) {
                stages.push(std::mem::take(&mut stage));
            }
            known.extend(&awaited);
            stage.received.extend(awaited);
        }
        if stage.nodes.is_empty() {
            stage.nodes = n..n;
        }
        stage.nodes.end = n + 1;
        stage.sent.extend(node.outputs.iter().filter(|output| sent.contains(output)));
        let next_is_sent = || graph.nodes.get(n + 1).is_some_and(|next| next.outputs.iter().any(|o| sent.contains(o)));
        let view = |at: usize| graph.nodes.get(at).is_some_and(is_view);
        if !stage.sent.is_empty() && !next_is_sent() && !view(n + 1) {
            stages.push(std::mem::take(&mut stage));
        }
    }
    if !stage.nodes.is_empty() {
        stages.push(stage);
    }
    stages
}
