//! Fully connected layer without its bias: forward, and backward to input and weight.

use super::case::{Case, CaseInput};
use super::draw::Draw;
use super::tolerance::sums_of_products;
use super::{Array, Forward, Op, Operator, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::TensorType;

/// `y[n,o] = sum over i of x[n,i] * w[o,i]`. Inputs: `x [N, I]`, `w [O, I]`. Output: `y [N, O]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear;

/// Inputs: `dy [N, O]`, `w [O, I]`. Output: `dx [N, I]`, `dx[n,i] = sum over o of dy[n,o] * w[o,i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearBackwardInput;

/// Inputs: `x [N, I]`, `dy [N, O]`. Output: `dw [O, I]`, `dw[o,i] = sum over n of dy[n,o] * x[n,i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearBackwardWeight;

fn matrices(inputs: &[TensorType]) -> Result<[[usize; 2]; 2], String> {
    let [a, b] = inputs_f32(inputs)?;
    Ok([a.matrix()?, b.matrix()?])
}

impl Operator for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [[n, i], [o, wi]] = matrices(inputs)?;
        if i != wi {
            return Err(format!("the input has {i} features, the weight [{o}, {wi}] takes {wi}"));
        }
        Ok(vec![TensorType::f32([n, o])])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        Ok(vec![
            node.want(0, graph, LinearBackwardInput, &[node.cotangent, node.inputs[1]])?,
            node.want(1, graph, LinearBackwardWeight, &[node.inputs[0], node.cotangent])?,
        ])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (x, w) = (&inputs[0], &inputs[1]);
        let (rows, features, outs) = (x.shape[0], x.shape[1], w.shape[0]);
        let mut y = Array::zeros([rows, outs]);
        for n in 0..rows {
            for o in 0..outs {
                y.data[n * outs + o] = (0..features).map(|i| x.data[n * features + i] * w.data[o * features + i]).sum();
            }
        }
        vec![y]
    }

    fn macs(&self, inputs: &[TensorType]) -> u64 {
        (inputs[0].shape.elements() * inputs[1].shape[0]) as u64
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        sums_of_products(self, &[0, 1], inputs, outputs)
    }

    fn cases() -> Vec<Case> {
        sizes().map(|(name, n, i, o)| case(Linear, name, normals([n, i], [o, i]), i)).into()
    }

    fn random(draw: &mut Draw) -> Case {
        let [n, i, o] = random_sizes(draw);
        Case::new(Linear, "random", two([n, i], [o, i], draw), i)
    }
}

impl Operator for LinearBackwardInput {
    fn name(&self) -> &'static str {
        "linear_backward_input"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [[n, o], [wo, i]] = matrices(inputs)?;
        if o != wo {
            return Err(format!("dy has {o} features, the weight [{wo}, {i}] makes {wo}"));
        }
        Ok(vec![TensorType::f32([n, i])])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (dy, w) = (&inputs[0], &inputs[1]);
        let (rows, outs, features) = (dy.shape[0], dy.shape[1], w.shape[1]);
        let mut dx = Array::zeros([rows, features]);
        for n in 0..rows {
            for o in 0..outs {
                for i in 0..features {
                    dx.data[n * features + i] += dy.data[n * outs + o] * w.data[o * features + i];
                }
            }
        }
        vec![dx]
    }

    fn macs(&self, inputs: &[TensorType]) -> u64 {
        (inputs[0].shape.elements() * inputs[1].shape[1]) as u64
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        sums_of_products(self, &[0, 1], inputs, outputs)
    }

    fn cases() -> Vec<Case> {
        sizes().map(|(name, n, i, o)| case(LinearBackwardInput, name, normals([n, o], [o, i]), o)).into()
    }

    fn random(draw: &mut Draw) -> Case {
        let [n, i, o] = random_sizes(draw);
        Case::new(LinearBackwardInput, "random", two([n, o], [o, i], draw), o)
    }
}

impl Operator for LinearBackwardWeight {
    fn name(&self) -> &'static str {
        "linear_backward_weight"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [[n, i], [dn, o]] = matrices(inputs)?;
        if n != dn {
            return Err(format!("x has {n} rows, dy has {dn}"));
        }
        Ok(vec![TensorType::f32([o, i])])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (x, dy) = (&inputs[0], &inputs[1]);
        let (rows, features, outs) = (x.shape[0], x.shape[1], dy.shape[1]);
        let mut dw = Array::zeros([outs, features]);
        for n in 0..rows {
            for o in 0..outs {
                for i in 0..features {
                    dw.data[o * features + i] += dy.data[n * outs + o] * x.data[n * features + i];
                }
            }
        }
        vec![dw]
    }

    fn macs(&self, inputs: &[TensorType]) -> u64 {
        (inputs[0].shape.elements() * inputs[1].shape[1]) as u64
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        sums_of_products(self, &[0, 1], inputs, outputs)
    }

    fn cases() -> Vec<Case> {
        sizes().map(|(name, n, i, o)| case(LinearBackwardWeight, name, normals([n, i], [n, o]), n)).into()
    }

    fn random(draw: &mut Draw) -> Case {
        let [n, i, o] = random_sizes(draw);
        Case::new(LinearBackwardWeight, "random", two([n, i], [n, o], draw), n)
    }
}

fn case(op: impl Into<Op>, name: &str, inputs: Vec<CaseInput>, terms: usize) -> Case {
    let case = Case::new(op, name, inputs, terms);
    if name.starts_with("alexnet") { case.without_gradient() } else { case } // it would be slow
}

fn normals(a: [usize; 2], b: [usize; 2]) -> Vec<CaseInput> {
    vec![CaseInput::normal(a), CaseInput::normal(b)]
}

/// Batch, inputs, outputs: each often small, sometimes more than a tile.
fn random_sizes(draw: &mut Draw) -> [usize; 3] {
    [(); 3].map(|()| match draw.below(3) {
        0 => draw.between(1, 9),
        1 => draw.between(1, 40),
        _ => draw.between(1, 100),
    })
}

/// The first may hold NaN and infinities: an element of it takes part in one row or column of the result.
fn two(a: [usize; 2], b: [usize; 2], draw: &mut Draw) -> Vec<CaseInput> {
    vec![CaseInput::f32(a, draw.any()), CaseInput::f32(b, draw.finite())]
}

/// (name, batch, inputs, outputs).
fn sizes() -> [(&'static str, usize, usize, usize); 18] {
    [
        ("one of everything", 1, 1, 1),
        ("odd sizes", 3, 37, 29),
        ("multiples of four", 4, 64, 16),
        ("more than one tile", 67, 131, 71),
        ("many inputs", 5, 9216, 6),
        ("many outputs", 5, 6, 4099),
        ("a batch of 129", 129, 33, 35),
        ("a batch of 17", 17, 133, 31),
        ("a batch of 33", 33, 77, 29),
        ("many inputs, odd", 5, 1037, 7),
        ("many of both, odd", 3, 1037, 517),
        // All of fc6's inputs and fc8; fc7 is twice both, and tests/golden.rs has AlexNet whole.
        ("alexnet fc6", 3, 9216, 256),
        ("alexnet fc8", 4, 4096, 1000),
        ("more of all than any tile", 130, 21, 133),
        ("a sum in parts", 33, 601, 9),
        ("more inputs than an invocation sums", 1, 240_100, 2),
        ("more rows than an invocation sums", 33_000, 3, 2),
        ("more outputs than an invocation sums", 2, 3, 33_000),
    ]
}
