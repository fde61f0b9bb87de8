//! A view of the same elements in another shape; `flatten` is this op. Costs nothing: the output shares the input's memory.

use super::case::{Case, CaseInput};
use super::draw::Draw;
use super::tolerance::relative;
use super::{Array, Forward, Operator};
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::tensor::{Shape, TensorType};

/// Input: x, any. Output: the same elements as `shape`.
#[derive(Clone, Debug, PartialEq)]
pub struct Reshape {
    /// The output's shape; as many elements as the input has.
    pub shape: Shape,
}

impl Operator for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs else { return Err(format!("expected 1 input, got {}", inputs.len())) };
        if x.shape.elements() != self.shape.elements() {
            return Err(format!(
                "{} has {} elements, {} has {}: they must agree",
                x.shape,
                x.shape.elements(),
                self.shape,
                self.shape.elements()
            ));
        }
        Ok(vec![TensorType::new(self.shape.clone(), x.dtype)])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        let shape = graph[node.inputs[0]].ty.shape.clone();
        Ok(vec![node.want(0, graph, Reshape { shape }, &[node.cotangent])?])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        vec![Array { shape: self.shape.clone(), data: inputs[0].data.clone() }]
    }

    fn aliases(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn scale(&self, _: &[Array], outputs: &[Array]) -> Vec<Array> {
        relative(outputs)
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(Reshape { shape: [3, 70].into() }, "flatten", vec![CaseInput::normal([3, 5, 7, 2])], 1)]
    }

    fn random(draw: &mut Draw) -> Case {
        let (rows, columns) = (draw.between(1, 9), draw.between(1, 300));
        let input = CaseInput::f32([columns, rows], draw.any());
        Case::new(Reshape { shape: [rows, columns].into() }, "random", vec![input], 1)
    }
}
