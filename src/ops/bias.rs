//! Adds a bias per channel, and its gradient.

use super::case::{Case, CaseInput, Fill};
use super::draw::Draw;
use super::tolerance::{relative, sums_of_products};
use super::{Array, Forward, Operator, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::{Shape, TensorType};

/// `y[n,c,...] = x[n,c,...] + b[c]`. Inputs: `x [N, C, ...]` (2 or 4 dimensions), `b [C]`. Output: y, as x.
#[derive(Clone, Debug, PartialEq)]
pub struct Bias;

/// Gradient of [`Bias`] to b: the sum of dy over all but the channel. Input: `dy [N, C, ...]`. Output: `db [C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct BiasBackward;

impl Operator for Bias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, b] = inputs_f32(inputs)?;
        let [channels] = b[..] else { return Err(format!("expected a bias of 1 dimension, got {b}")) };
        if x.len() < 2 || x[1] != channels {
            return Err(format!("expected an input [N, {channels}, ...] for a bias of {channels}, got {x}"));
        }
        Ok(vec![TensorType::f32(x)])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        Ok(vec![Some(node.cotangent), node.want(1, graph, BiasBackward, &[node.cotangent])?])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (x, b) = (&inputs[0], &inputs[1]);
        let inner: usize = x.shape[2..].iter().product();
        let data = x.data.iter().enumerate().map(|(i, v)| v + b.data[i / inner % b.data.len()]).collect();
        vec![Array { shape: x.shape.clone(), data }]
    }

    fn scale(&self, inputs: &[Array], _: &[Array]) -> Vec<Array> {
        self.reference(&relative(inputs))
    }

    fn cases() -> Vec<Case> {
        let case = |(name, x): (&'static str, Shape)| {
            let channels = x[1];
            Case::new(Bias, name, vec![CaseInput::normal(x), CaseInput::normal([channels])], 1)
        };
        shapes().map(case).into()
    }

    fn random(draw: &mut Draw) -> Case {
        let x = random_shape(draw);
        Case::new(Bias, "random", vec![CaseInput::f32(x.clone(), draw.any()), CaseInput::f32([x[1]], draw.any())], 1)
    }
}

impl Operator for BiasBackward {
    fn name(&self) -> &'static str {
        "bias_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [dy] = inputs_f32(inputs)?;
        if dy.len() < 2 {
            return Err(format!("expected dy [N, C, ...], got {dy}"));
        }
        Ok(vec![TensorType::f32([dy[1]])])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let dy = &inputs[0];
        let channels = dy.shape[1];
        let inner: usize = dy.shape[2..].iter().product();
        let mut db = Array::zeros([channels]);
        for (i, v) in dy.data.iter().enumerate() {
            db.data[i / inner % channels] += v;
        }
        vec![db]
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        sums_of_products(self, &[0], inputs, outputs)
    }

    fn cases() -> Vec<Case> {
        let case = |(name, x): (&'static str, Shape)| {
            let terms = x.elements() / x[1];
            Case::new(BiasBackward, name, vec![CaseInput::normal(x)], terms)
        };
        let x = [2, 3, 124, 130];
        let positive = CaseInput::f32(x, Fill::Uniform(0.5, 1.5));
        let positive = Case::new(BiasBackward, "sums far from zero", vec![positive], x[0] * x[2] * x[3]);
        shapes().map(case).into_iter().chain([positive]).collect()
    }

    fn random(draw: &mut Draw) -> Case {
        let dy = random_shape(draw);
        let terms = dy.iter().product::<usize>() / dy[1];
        Case::new(BiasBackward, "random", vec![CaseInput::f32(dy, draw.any())], terms)
    }
}

/// A matrix or planes.
fn random_shape(draw: &mut Draw) -> Vec<usize> {
    match draw.below(2) {
        0 => vec![draw.between(1, 40), draw.between(1, 300)],
        _ => draw.nchw().to_vec(),
    }
}

fn shapes() -> [(&'static str, Shape); 9] {
    [
        ("one of everything", [1, 1].into()),
        ("matrix", [5, 37].into()),
        ("planes", [3, 7, 5, 9].into()),
        ("rows of whole vec4s", [2, 12, 4, 4].into()),
        ("planes longer than a workgroup", [9, 3, 55, 55].into()),
        ("pictures in groups", [5, 300, 2, 3].into()),
        ("more rows than an invocation sums", [33_000, 3].into()),
        ("many channels", [2, 4099, 1, 3].into()),
        ("alexnet conv1", [2, 96, 55, 55].into()),
    ]
}
