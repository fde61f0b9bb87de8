//! Sum and mean of all elements, and the op that spreads one number over a tensor (each is in the other's gradient).

use super::case::{Case, CaseInput};
use super::draw::Draw;
use super::tolerance::relative;
use super::{Array, Forward, Operator, Scale, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::tensor::{Shape, TensorType};

/// Which reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceKind {
    /// Sum.
    Sum,
    /// Sum divided by the number of elements.
    Mean,
}

/// Input: x, any f32 shape. Output: `[1]`. The sum must be within f32, for the mean too.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduce {
    /// See [`ReduceKind`].
    pub kind: ReduceKind,
}

/// Input: `x [1]`. Output: a tensor of `shape`, every element `x[0]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Broadcast {
    /// The output's shape.
    pub shape: Shape,
}

impl Operator for Reduce {
    fn name(&self) -> &'static str {
        match self.kind {
            ReduceKind::Sum => "sum",
            ReduceKind::Mean => "mean",
        }
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        inputs_f32::<1>(inputs)?;
        Ok(vec![TensorType::f32([1])])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        let shape = graph[node.inputs[0]].ty.shape.clone();
        let spread = match self.kind {
            ReduceKind::Sum => node.cotangent,
            ReduceKind::Mean => {
                graph.apply(node.layer, Scale { factor: 1.0 / shape.elements() as f32 }, &[node.cotangent])?
            }
        };
        Ok(vec![node.want(0, graph, Broadcast { shape }, &[spread])?])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let sum: f64 = inputs[0].data.iter().sum();
        let divisor = match self.kind {
            ReduceKind::Sum => 1.0,
            ReduceKind::Mean => inputs[0].data.len() as f64,
        };
        vec![Array { shape: [1].into(), data: vec![sum / divisor] }]
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        let (squares, n) = (inputs[0].data.iter().map(|x| x * x).sum::<f64>(), inputs[0].data.len() as f64);
        let divisor = if self.kind == ReduceKind::Mean { n } else { 1.0 };
        vec![Array { shape: [1].into(), data: vec![squares.sqrt() / divisor + outputs[0].data[0].abs()] }]
    }

    fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for kind in [ReduceKind::Sum, ReduceKind::Mean] {
            for n in [1, 31, 4099, 20_011, 300_007, 600_011] {
                let case = Case::new(Reduce { kind }, format!("{n} elements"), vec![CaseInput::normal([n])], n);
                cases.push(case);
            }
        }
        cases
    }

    fn random(draw: &mut Draw) -> Case {
        let (kind, shape) = (draw.pick([ReduceKind::Sum, ReduceKind::Mean]), draw.shape());
        let terms = shape.iter().product();
        Case::new(Reduce { kind }, "random", vec![CaseInput::f32(shape, draw.any())], terms)
    }
}

impl Operator for Broadcast {
    fn name(&self) -> &'static str {
        "broadcast"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs_f32(inputs)?;
        expect_shape("the input", &x, &[1].into())?;
        Ok(vec![TensorType::f32(self.shape.clone())])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        Ok(vec![node.want(0, graph, Reduce { kind: ReduceKind::Sum }, &[node.cotangent])?])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        vec![Array { shape: self.shape.clone(), data: vec![inputs[0].data[0]; self.shape.elements()] }]
    }

    fn scale(&self, _: &[Array], outputs: &[Array]) -> Vec<Array> {
        relative(outputs)
    }

    fn cases() -> Vec<Case> {
        let case = |shape: Shape| {
            Case::new(Broadcast { shape: shape.clone() }, format!("{shape}"), vec![CaseInput::normal([1])], 1)
        };
        vec![case([1].into()), case([3, 7, 5].into()), case([600_011].into()).without_gradient()]
    }

    fn random(draw: &mut Draw) -> Case {
        let shape = draw.shape();
        Case::new(Broadcast { shape: shape.into() }, "random", vec![CaseInput::f32([1], draw.any())], 1)
    }
}
