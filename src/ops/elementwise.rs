//! Element-wise arithmetic on f32 tensors of one shape.

use super::case::{Case, CaseInput};
use super::draw::Draw;
use super::tolerance::{pairwise, relative};
use super::{Array, Forward, Op, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::tensor::{Shape, TensorType};

/// Inputs: a, b. Output: a + b.
#[derive(Clone, Debug, PartialEq)]
pub struct Add;

/// Inputs: a, b. Output: a * b.
#[derive(Clone, Debug, PartialEq)]
pub struct Mul;

/// Input: x. Output: x * factor.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// The constant factor.
    pub factor: f32,
}

/// No input. Output: a tensor filled with `value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fill {
    /// The output's shape.
    pub shape: Shape,
    /// Every element.
    pub value: f32,
}

fn same_shape(inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
    let [a, b] = inputs_f32(inputs)?;
    expect_shape("b", &b, &a)?;
    Ok(vec![TensorType::f32(a)])
}

fn zip(inputs: &[Array], f: impl Fn(f64, f64) -> f64) -> Vec<Array> {
    let data = inputs[0].data.iter().zip(&inputs[1].data).map(|(&a, &b)| f(a, b)).collect();
    vec![Array { shape: inputs[0].shape.clone(), data }]
}

fn pairs(op: impl Into<Op> + Clone) -> Vec<Case> {
    let case = |shape: &[usize]| {
        let inputs = vec![CaseInput::normal(shape.to_vec()), CaseInput::normal(shape.to_vec())];
        Case::new(op.clone(), format!("{shape:?}"), inputs, 1)
    };
    vec![case(&[1]), case(&[3, 5, 7]), case(&[64, 1025]), case(&[600_011]).without_gradient()]
}

impl Operator for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        same_shape(inputs)
    }

    fn gradient(&self, _: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        Ok(vec![Some(node.cotangent); 2])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        zip(inputs, |a, b| a + b)
    }

    fn scale(&self, inputs: &[Array], _: &[Array]) -> Vec<Array> {
        pairwise(&inputs[0], &inputs[1], |a, b| a.abs() + b.abs())
    }

    fn cases() -> Vec<Case> {
        pairs(Add)
    }

    fn random(draw: &mut Draw) -> Case {
        let shape = draw.shape();
        Case::new(Add, "random", vec![CaseInput::f32(shape.clone(), draw.any()), CaseInput::f32(shape, draw.any())], 1)
    }
}

impl Operator for Mul {
    fn name(&self) -> &'static str {
        "mul"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        same_shape(inputs)
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        Ok(vec![
            node.want(0, graph, Mul, &[node.cotangent, node.inputs[1]])?,
            node.want(1, graph, Mul, &[node.cotangent, node.inputs[0]])?,
        ])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        zip(inputs, |a, b| a * b)
    }

    fn scale(&self, _: &[Array], outputs: &[Array]) -> Vec<Array> {
        relative(outputs)
    }

    fn cases() -> Vec<Case> {
        pairs(Mul)
    }

    fn random(draw: &mut Draw) -> Case {
        let shape = draw.shape();
        Case::new(Mul, "random", vec![CaseInput::f32(shape.clone(), draw.any()), CaseInput::f32(shape, draw.any())], 1)
    }
}

impl Operator for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs_f32(inputs)?;
        Ok(vec![TensorType::f32(x)])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        Ok(vec![node.want(0, graph, self.clone(), &[node.cotangent])?])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let data = inputs[0].data.iter().map(|x| x * self.factor as f64).collect();
        vec![Array { shape: inputs[0].shape.clone(), data }]
    }

    fn scale(&self, _: &[Array], outputs: &[Array]) -> Vec<Array> {
        relative(outputs)
    }

    fn cases() -> Vec<Case> {
        let case = |factor, shape: [usize; 2]| {
            Case::new(Scale { factor }, format!("{factor}"), vec![CaseInput::normal(shape)], 1)
        };
        vec![case(0.5, [3, 7]), case(-1.7, [5, 1025]), case(3.0, [601, 1031]).without_gradient()]
    }

    fn random(draw: &mut Draw) -> Case {
        let (factor, shape) = (draw.pick([0.5, -1.7, 3.0]), draw.shape());
        Case::new(Scale { factor }, "random", vec![CaseInput::f32(shape, draw.any())], 1)
    }
}

impl Operator for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        inputs_f32::<0>(inputs)?;
        Ok(vec![TensorType::f32(self.shape.clone())])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Ok(Vec::new())
    }

    fn reference(&self, _: &[Array]) -> Vec<Array> {
        vec![Array { shape: self.shape.clone(), data: vec![self.value as f64; self.shape.elements()] }]
    }

    fn scale(&self, _: &[Array], outputs: &[Array]) -> Vec<Array> {
        relative(outputs)
    }

    fn cases() -> Vec<Case> {
        let case = |shape: Shape, value| Case::new(Fill { shape, value }, format!("{value}"), Vec::new(), 1);
        vec![case([1].into(), 1.0), case([3, 5, 7].into(), -0.25), case([600_011].into(), 0.5)]
    }

    fn random(draw: &mut Draw) -> Case {
        let (value, shape) = (draw.pick([1.0, 0.0, -0.25]), draw.shape());
        Case::new(Fill { shape: shape.into(), value }, "random", Vec::new(), 1)
    }
}
