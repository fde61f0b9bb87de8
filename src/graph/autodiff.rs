//! Reverse-mode differentiation: walks the nodes backwards and lets each op's gradient rule append ordinary nodes.

use super::{Graph, Role, ValueId};
use crate::error::{Error, Result};
use crate::ops::{Add, Fill, Forward};
use crate::tensor::DType;

/// Appends the nodes that compute d `loss` / d value for every value in `wanted`, and returns these gradients in order.
/// `loss` has one element.
///
/// # Errors
/// When the loss is not one number, when an op on the way has no gradient rule, or when the loss does not depend on a
/// wanted value.
pub fn gradients(graph: &mut Graph, loss: ValueId, wanted: &[ValueId]) -> Result<Vec<ValueId>> {
    let ty = graph[loss].ty.clone();
    if ty.shape.elements() != 1 || ty.dtype != DType::F32 {
        return Err(Error::shape(&graph[loss].name, format!("a loss is one f32 number, this is {}", ty.shape)));
    }
    let seed = graph.apply("loss", Fill { shape: ty.shape, value: 1.0 }, &[])?;
    let cotangents = backward(graph, loss, seed, wanted)?;
    wanted
        .iter()
        .zip(cotangents)
        .map(|(&v, g)| g.ok_or_else(|| Error::shape(&graph[v].name, "the loss does not depend on this parameter")))
        .collect()
}

/// Appends the vector-Jacobian product of `output` with the given `cotangent` (of `output`'s type), for each wanted value.
pub fn backward(
    graph: &mut Graph,
    output: ValueId,
    cotangent: ValueId,
    wanted: &[ValueId],
) -> Result<Vec<Option<ValueId>>> {
    let forward_nodes = graph.nodes.len();
    // A value needs a gradient when it is wanted or computed from one that does.
    let mut needs = vec![false; graph.values.len()];
    wanted.iter().for_each(|v| needs[v.0] = true);
    for node in &graph.nodes {
        if node.inputs.iter().any(|v| needs[v.0]) {
            node.outputs.iter().for_each(|v| needs[v.0] = true);
        }
    }
    let mut cotangents: Vec<Option<ValueId>> = vec![None; graph.values.len()];
    cotangents[output.0] = Some(cotangent);
    for index in (0..forward_nodes).rev() {
        let node = graph.nodes[index].clone();
        let Some(&output) = node.outputs.first() else { continue };
        if node.outputs[1..].iter().any(|v| cotangents[v.0].is_some()) {
            return Err(no_gradient(&*node.op));
        }
        let Some(cotangent) = cotangents[output.0] else { continue };
        let need: Vec<bool> = node.inputs.iter().map(|v| needs[v.0]).collect();
        if !need.contains(&true) {
            continue;
        }
        let forward = Forward {
            layer: &node.layer,
            inputs: &node.inputs,
            output,
            outputs: &node.outputs,
            cotangent,
            wanted: &need,
        };
        let found = node.op.gradient(graph, &forward)?;
        for ((input, gradient), need) in node.inputs.iter().zip(found).zip(need) {
            let (true, Some(gradient)) = (need, gradient) else { continue };
            debug_assert_eq!(graph[gradient].ty, graph[*input].ty, "gradient of {}", graph[*input].name);
            cotangents[input.0] = Some(match cotangents[input.0] {
                None => gradient,
                Some(other) => graph.apply(&node.layer, Add, &[other, gradient])?,
            });
        }
    }
    debug_assert!(graph.values.iter().all(|v| v.role != Role::Activation || v.producer.is_some()));
    Ok(wanted.iter().map(|v| cotangents[v.0]).collect())
}

/// The error of an op that cannot be differentiated.
pub fn no_gradient(op: &dyn crate::ops::Operator) -> Error {
    Error::Unsupported {
        op: op.name().into(),
        by: "autodiff".into(),
        hint: "it has no gradient rule; keep it out of the path from the parameters to the loss".into(),
    }
}
