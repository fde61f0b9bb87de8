//! Runs a graph in f64 by the ops' reference implementations: the oracle for whole graphs and for gradients.

use std::collections::HashMap;

use super::{Graph, ValueId};
use crate::ops::Array;

/// Every value of the graph, from the given inputs, parameters and state.
///
/// # Panics
/// When a value that no node computes is not in `given`; this is a testing tool.
pub fn run(graph: &Graph, given: &HashMap<ValueId, Array>) -> HashMap<ValueId, Array> {
    let mut values = given.clone();
    for node in &graph.nodes {
        let inputs: Vec<Array> = node.inputs.iter().map(|v| values[v].clone()).collect();
        for (output, array) in node.outputs.iter().zip(node.op.reference(&inputs)) {
            assert_eq!(array.shape, graph[*output].ty.shape, "{} {}", node.layer, node.op.name());
            values.insert(*output, array);
        }
    }
    values
}
