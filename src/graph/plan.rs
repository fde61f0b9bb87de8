//! Memory planning: which values share a buffer. Lifetimes come from the order of the nodes; a slot is free again once
//! its last reader has run. Whole slots are reused, since wgpu tracks usage per buffer (one dispatch may not read and
//! write ranges of the same one).

use super::{Graph, Role, ValueId};

/// Where a value lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The memory of this input, parameter or state (itself, or what it is an in-place update or a view of).
    Source(ValueId),
    /// A slot of the plan, shared over time.
    Slot(usize),
    /// No node makes or reads the value: rewrites of the graph went around it.
    Unused,
}

/// Memory of one compiled graph.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Per value.
    pub places: Vec<Place>,
    /// Bytes of each slot.
    pub slots: Vec<usize>,
}

impl Plan {
    /// Bytes of all slots.
    pub fn slot_bytes(&self) -> usize {
        self.slots.iter().sum()
    }
}

/// Plans the graph. Values in `outputs` keep their memory until the end of the step, those that a stage sends until its end; what it
/// receives has memory from its beginning on. Sizes are rounded up to 16 bytes, so that
/// kernels may read whole vec4s.
pub fn plan(graph: &Graph, outputs: &[ValueId]) -> Plan {
    let n = graph.values.len();
    // Views and updates live where their input does: follow the chain to its root.
    let mut root: Vec<ValueId> = (0..n).map(ValueId).collect();
    for node in &graph.nodes {
        for &(output, input) in node.op.aliases() {
            root[node.outputs[output].0] = root[node.inputs[input].0];
        }
    }
    let end = graph.nodes.len();
    let mut last_use = vec![None; n];
    for (index, node) in graph.nodes.iter().enumerate() {
        for value in node.inputs.iter().chain(&node.outputs) {
            last_use[root[value.0].0] = Some(index);
        }
    }
    for stage in &graph.stages {
        for value in &stage.sent {
            let last = &mut last_use[root[value.0].0];
            *last = (*last).max(stage.nodes.end.checked_sub(1));
        }
    }
    for value in outputs {
        last_use[root[value.0].0] = Some(end);
    }
    // Values by the node after which their memory is free.
    let mut ending: Vec<Vec<ValueId>> = vec![Vec::new(); end + 1];
    (0..n).map(ValueId).for_each(|v| last_use[v.0].into_iter().for_each(|last| ending[last].push(v)));
    let bytes = |v: ValueId| graph[v].ty.bytes().next_multiple_of(16).max(16);
    let mut slots: Vec<usize> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut slot_of: Vec<Option<usize>> = vec![None; n];
    for (index, node) in graph.nodes.iter().enumerate() {
        let received = graph.stages.iter().filter(|stage| stage.nodes.start == index && !stage.nodes.is_empty());
        for &output in received.flat_map(|stage| &stage.received).chain(&node.outputs) {
            if root[output.0] != output {
                continue;
            }
            // The free slot that wastes least: the smallest that is large enough, else the largest, grown.
            let need = bytes(output);
            let best = (0..free.len()).min_by_key(|&f| {
                let size = slots[free[f]];
                if size >= need { (0, size - need) } else { (1, need - size) }
            });
            let slot = match best {
                Some(f) => free.swap_remove(f),
                None => {
                    slots.push(0);
                    slots.len() - 1
                }
            };
            slots[slot] = slots[slot].max(need);
            slot_of[output.0] = Some(slot);
        }
        // Freed only now: a node's inputs and outputs never share a slot.
        free.extend(ending[index].iter().filter_map(|value| slot_of[value.0]));
    }
    let places = (0..n)
        .map(|v| match (graph[root[v]].role, slot_of[root[v].0]) {
            (Role::Activation | Role::Received, Some(slot)) => Place::Slot(slot),
            (Role::Activation | Role::Received, None) => Place::Unused,
            _ => Place::Source(root[v]),
        })
        .collect();
    Plan { places, slots }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Add, Reshape, Scale};
    use crate::tensor::TensorType;

    /// A chain needs two slots however long it is; a value read late keeps its own.
    #[test]
    fn slots_are_reused() {
        let mut g = Graph::new();
        let x = g.source("x", TensorType::f32([5]), Role::Input).unwrap();
        let early = g.apply("early", Scale { factor: 2.0 }, &[x]).unwrap();
        let mut y = early;
        for i in 0..6 {
            y = g.apply(&format!("s{i}"), Scale { factor: 2.0 }, &[y]).unwrap();
        }
        let out = g.apply("out", Add, &[y, early]).unwrap();
        let plan = plan(&g, &[out]);
        assert_eq!(plan.slots, vec![32; 3]);
        assert_eq!(plan.places[x.0], Place::Source(x));
        assert_ne!(plan.places[out.0], plan.places[early.0]);
    }

    /// At no node do two live values share a slot, and a view shares its input's.
    #[test]
    fn live_values_never_overlap() {
        let mut g = Graph::new();
        let x = g.source("x", TensorType::f32([2, 6]), Role::Input).unwrap();
        let a = g.apply("a", Scale { factor: 1.0 }, &[x]).unwrap();
        let view = g.apply("view", Reshape { shape: [12].into() }, &[a]).unwrap();
        let b = g.apply("b", Scale { factor: 1.0 }, &[x]).unwrap();
        let c = g.apply("c", Reshape { shape: [12].into() }, &[b]).unwrap();
        let d = g.apply("d", Add, &[view, c]).unwrap();
        let plan = plan(&g, &[d]);
        assert_eq!(plan.places[view.0], plan.places[a.0]);
        assert_ne!(plan.places[a.0], plan.places[b.0], "the view keeps a's memory alive");
        assert!(![plan.places[a.0], plan.places[b.0]].contains(&plan.places[d.0]));
    }
}
