//! Softmax and log-softmax over the last dimension of a matrix, and their gradients. The row's maximum is subtracted first.

use super::case::{Case, CaseInput, Fill};
use super::draw::Draw;
use super::{Array, Forward, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::TensorType;

/// Input: x [N, classes]. Output: y, as x: exp(x - lse(x)), or x - lse(x) with `log`, where lse is log(sum(exp(row))).
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// Log-softmax.
    pub log: bool,
}

/// Gradient of [`Softmax`] from its output. Inputs: y, dy [N, classes]. Output: dx.
/// Softmax: y * (dy - sum(dy * y)); log-softmax: dy - exp(y) * sum(dy).
#[derive(Clone, Debug, PartialEq)]
pub struct SoftmaxBackward {
    /// Log-softmax.
    pub log: bool,
}

/// Rows and classes.
fn random_shape(draw: &mut Draw) -> [usize; 2] {
    [draw.between(1, 40), draw.between(1, 600)]
}

/// log(softmax(row)), the maximum subtracted first: next to a maximum of 3e38, the rest of log(sum(exp(row))) would be lost.
pub(super) fn log_softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    row.iter().map(|x| x - max - log_sum).collect()
}

impl Operator for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs_f32(inputs)?;
        x.matrix()?;
        Ok(vec![TensorType::f32(x)])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        Ok(vec![node.want(0, graph, SoftmaxBackward { log: self.log }, &[node.output, node.cotangent])?])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let x = &inputs[0];
        let mut data = Vec::with_capacity(x.data.len());
        for row in x.data.chunks(x.shape[1].max(1)) {
            data.extend(log_softmax(row).into_iter().map(|log| if self.log { log } else { log.exp() }));
        }
        vec![Array { shape: x.shape.clone(), data }]
    }

    /// exp's error grows with its argument, here the distance from the row's log-sum-exp.
    fn scale(&self, inputs: &[Array], _: &[Array]) -> Vec<Array> {
        let x = &inputs[0];
        let mut data = Vec::with_capacity(x.data.len());
        for row in x.data.chunks(x.shape[1].max(1)) {
            data.extend(log_softmax(row).into_iter().map(|log| match self.log {
                true => log.abs() + 2.0 * (row.len() as f64).ln() + 1.0,
                false => log.exp() * (1.0 + log.abs().min(110.0)),
            }));
        }
        vec![Array { shape: x.shape.clone(), data }]
    }

    fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for log in [false, true] {
            let mut case = |name, shape: [usize; 2], fill| {
                cases.push(Case::new(Softmax { log }, name, vec![CaseInput::f32(shape, fill)], shape[1]));
            };
            case("one class", [3, 1], Fill::Normal(1.0));
            case("odd sizes", [5, 7], Fill::Normal(3.0));
            case("equal rows", [4, 6], Fill::Given(vec![2.5]));
            case("large logits", [3, 5], Fill::Given(vec![1e4, -1e4, 9999.0, 0.0]));
            case("ImageNet", [3, 1000], Fill::Normal(2.0));
            // In the second round of a workgroup's first invocation, and in the middle of its invocations.
            case("large logit 256", [1, 700], Fill::Spike(256));
            case("large logit 128", [1, 700], Fill::Spike(128));
            case("many rows", [333, 3], Fill::Normal(1.0));
            case("many rows of ImageNet", [521, 1000], Fill::Normal(2.0));
            // Where a maximum that begins too high would leave nothing of the sum.
            case("large negative logits", [3, 2], Fill::Given(vec![-3e38, -3.2e38]));
            // Near the end of f32: what stays of a logarithm next to the maximum.
            case("large ties", [3, 5], Fill::Given(vec![3e38, -3e38, 0.0, 3e38, -3e38]));
            case("large logits, masked", [3, 5], Fill::Given(vec![1.0, f32::NEG_INFINITY, 0.5, 2.0, 0.1]));
        }
        // Central differences lose all digits at 1e4.
        cases.into_iter().map(|c| if c.name.contains("large") { c.without_gradient() } else { c }).collect()
    }

    fn random(draw: &mut Draw) -> Case {
        let shape = random_shape(draw);
        Case::new(Softmax { log: draw.below(2) == 1 }, "random", vec![CaseInput::f32(shape, draw.any())], shape[1])
    }
}

impl Operator for SoftmaxBackward {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax_backward" } else { "softmax_backward" }
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [y, dy] = inputs_f32(inputs)?;
        y.matrix()?;
        expect_shape("dy", &dy, &y)?;
        Ok(vec![TensorType::f32(y)])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (y, dy) = (&inputs[0], &inputs[1]);
        let classes = y.shape[1].max(1);
        let mut data = Vec::with_capacity(y.data.len());
        for (y, dy) in y.data.chunks(classes).zip(dy.data.chunks(classes)) {
            if self.log {
                let sum: f64 = dy.iter().sum();
                data.extend(y.iter().zip(dy).map(|(y, dy)| dy - y.exp() * sum));
            } else {
                let dot: f64 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
                data.extend(y.iter().zip(dy).map(|(y, dy)| y * (dy - dot)));
            }
        }
        vec![Array { shape: y.shape.clone(), data }]
    }

    fn scale(&self, inputs: &[Array], _: &[Array]) -> Vec<Array> {
        let (y, dy) = (&inputs[0], &inputs[1]);
        let classes = y.shape[1].max(1);
        let mut data = Vec::with_capacity(y.data.len());
        for (y, dy) in y.data.chunks(classes).zip(dy.data.chunks(classes)) {
            if self.log {
                let sum: f64 = dy.iter().map(|dy| dy.abs()).sum();
                data.extend(y.iter().zip(dy).map(|(y, dy)| dy.abs() + y.exp() * (1.0 + y.abs()) * sum));
            } else {
                let dot: f64 = y.iter().zip(dy).map(|(y, dy)| (y * dy).abs()).sum();
                data.extend(y.iter().zip(dy).map(|(y, dy)| y.abs() * (dy.abs() + dot)));
            }
        }
        vec![Array { shape: y.shape.clone(), data }]
    }

    fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for log in [false, true] {
            for shape in [[3, 1], [5, 7], [3, 1000], [333, 3], [521, 1000]] {
                // Outputs of a softmax are in (0, 1), of a log-softmax below 0.
                let y = if log { Fill::Uniform(-9.0, 0.0) } else { Fill::Uniform(0.0, 1.0) };
                let inputs = vec![CaseInput::f32(shape, y), CaseInput::normal(shape)];
                let name = format!("[{}, {}]", shape[0], shape[1]);
                cases.push(Case::new(SoftmaxBackward { log }, name, inputs, shape[1]));
            }
        }
        cases
    }

    fn random(draw: &mut Draw) -> Case {
        let (log, shape) = (draw.below(2) == 1, random_shape(draw));
        let y = if log { Fill::Uniform(-9.0, 0.0) } else { Fill::Uniform(0.0, 1.0) };
        let inputs = vec![CaseInput::f32(shape, y), CaseInput::f32(shape, draw.any())];
        Case::new(SoftmaxBackward { log }, "random", inputs, shape[1])
    }
}
