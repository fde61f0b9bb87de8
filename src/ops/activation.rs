//! ReLU, sigmoid, tanh, leaky ReLU and GELU, and their gradients.

use super::case::{Case, CaseInput, Fill};
use super::draw::Draw;
use super::tolerance::{pairwise, relative};
use super::{Array, Forward, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::TensorType;

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationKind {
    /// max(x, 0); its gradient at exactly 0 is 0.
    Relu,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// tanh(x).
    Tanh,
    /// x, or [`LEAKY_SLOPE`] times it below 0; so is its gradient at exactly 0.
    LeakyRelu,
    /// x times the probability that a normal number is below x (Hendrycks, Gimpel 2016): 0.5 x (1 + erf(x / sqrt(2))).
    Gelu,
}

/// Of leaky ReLU, PyTorch's own.
pub const LEAKY_SLOPE: f32 = 0.01;

impl ActivationKind {
    /// All of them.
    pub const ALL: [ActivationKind; 5] = [
        ActivationKind::Relu,
        ActivationKind::Sigmoid,
        ActivationKind::Tanh,
        ActivationKind::LeakyRelu,
        ActivationKind::Gelu,
    ];

    /// Its name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            ActivationKind::Relu => "relu",
            ActivationKind::Sigmoid => "sigmoid",
            ActivationKind::Tanh => "tanh",
            ActivationKind::LeakyRelu => "leaky_relu",
            ActivationKind::Gelu => "gelu",
        }
    }
}

/// The error function, to about 1e-13: a series, far from 0 a continued fraction of what is left to 1.
fn erf(x: f64) -> f64 {
    let root = std::f64::consts::PI.sqrt();
    if x.abs() < 2.5 {
        let mut term = x;
        let terms = (1..60).map(|n| {
            term *= -x * x / n as f64;
            term / (2 * n + 1) as f64
        });
        return 2.0 / root * (x + terms.sum::<f64>());
    }
    let fraction = (1..=60).rev().fold(0.0, |fraction, n| n as f64 / 2.0 / (x.abs() + fraction));
    x.signum() * (1.0 - (-x * x).exp() / root / (x.abs() + fraction))
}

/// The probability that a normal number is below x.
fn below(x: f64) -> f64 {
    0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// x times the density of normal numbers at x: with [`below`] GELU's slope.
fn x_density(x: f64) -> f64 {
    x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// y = f(x), element by element. Input: x, any f32 shape. Output: y, as x.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// f.
    pub kind: ActivationKind,
}

/// Gradient of [`Activation`], from its output y, of which the derivatives are functions; but GELU's from its input, here y too.
/// Inputs: y, dy. Output: dx: dy where y > 0 (ReLU), and a slope times it elsewhere (leaky ReLU), dy*y*(1-y) (sigmoid), dy*(1-y*y)
/// (tanh), dy times the probability of a normal number below y plus y times its density there (GELU).
#[derive(Clone, Debug, PartialEq)]
pub struct ActivationBackward {
    /// f.
    pub kind: ActivationKind,
}

impl Operator for Activation {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs_f32(inputs)?;
        Ok(vec![TensorType::f32(x)])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        let of = if self.kind == ActivationKind::Gelu { node.inputs[0] } else { node.output };
        Ok(vec![node.want(0, graph, ActivationBackward { kind: self.kind }, &[of, node.cotangent])?])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let f = |&x: &f64| match self.kind {
            ActivationKind::Relu if x.is_nan() => x,
            ActivationKind::Relu => x.max(0.0),
            ActivationKind::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            ActivationKind::Tanh => x.tanh(),
            ActivationKind::LeakyRelu => x * if x > 0.0 { 1.0 } else { LEAKY_SLOPE as f64 },
            ActivationKind::Gelu => x * below(x),
        };
        vec![Array { shape: inputs[0].shape.clone(), data: inputs[0].data.iter().map(f).collect() }]
    }

    /// exp's own error grows with its argument (WGSL: 3 + 2 |x| units in the last place); near 1, tanh is a difference from 1.
    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        match self.kind {
            ActivationKind::Relu => relative(outputs),
            ActivationKind::Sigmoid => pairwise(&inputs[0], &outputs[0], |x, y| y * (1.0 + x.abs().min(110.0))),
            ActivationKind::Tanh => pairwise(&inputs[0], &outputs[0], |x, y| y.abs() * (1.0 + x.abs().min(9.0))),
            ActivationKind::LeakyRelu => relative(outputs),
            // The probability is right to a rounding of 1.
            ActivationKind::Gelu => relative(inputs),
        }
    }

    fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for kind in ActivationKind::ALL {
            // Central differences need inputs away from ReLU's kink: either sign, at least 0.1 from 0.
            let away = Fill::Given(vec![-1.7, 0.3, 2.5, -0.1, 0.9, -3.2, 0.1]);
            cases.push(Case::new(Activation { kind }, "away from 0", vec![CaseInput::f32([3, 17], away)], 1));
            for (name, fill) in [
                ("normal", Fill::Normal(1.0)),
                ("zeros and ties", Fill::Ties),
                ("where tanh's formulas meet", Fill::Uniform(0.28, 0.32)),
                ("large", Fill::Given(vec![-1e4, 1e4, -88.8, 88.8, -20.0, 20.0, 0.0])),
            ] {
                let input = CaseInput::f32([2, 5, 13, 11], fill);
                cases.push(Case::new(Activation { kind }, name, vec![input], 1).without_gradient());
            }
            let conv1 = CaseInput::normal([2, 96, 55, 55]);
            cases.push(Case::new(Activation { kind }, "alexnet conv1", vec![conv1], 1).without_gradient());
        }
        cases
    }

    fn random(draw: &mut Draw) -> Case {
        let kind = draw.pick(ActivationKind::ALL);
        let shape = draw.shape();
        Case::new(Activation { kind }, "random", vec![CaseInput::f32(shape, draw.any())], 1)
    }
}

impl Operator for ActivationBackward {
    fn name(&self) -> &'static str {
        match self.kind {
            ActivationKind::Relu => "relu_backward",
            ActivationKind::Sigmoid => "sigmoid_backward",
            ActivationKind::Tanh => "tanh_backward",
            ActivationKind::LeakyRelu => "leaky_relu_backward",
            ActivationKind::Gelu => "gelu_backward",
        }
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [y, dy] = inputs_f32(inputs)?;
        expect_shape("dy", &dy, &y)?;
        Ok(vec![TensorType::f32(y)])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let f = |(&y, &dy): (&f64, &f64)| match self.kind {
            ActivationKind::Relu => {
                if y > 0.0 {
                    dy
                } else {
                    0.0
                }
            }
            ActivationKind::Sigmoid => dy * y * (1.0 - y),
            ActivationKind::Tanh => dy * (1.0 - y * y),
            ActivationKind::LeakyRelu => dy * if y > 0.0 { 1.0 } else { LEAKY_SLOPE as f64 },
            ActivationKind::Gelu => dy * (below(y) + x_density(y)),
        };
        let data = inputs[0].data.iter().zip(&inputs[1].data).map(f).collect();
        vec![Array { shape: inputs[0].shape.clone(), data }]
    }

    fn scale(&self, inputs: &[Array], _: &[Array]) -> Vec<Array> {
        pairwise(&inputs[0], &inputs[1], |y, dy| match self.kind {
            ActivationKind::Relu => dy.abs(),
            ActivationKind::Sigmoid => (dy * y).abs() * (1.0 + y.abs()),
            ActivationKind::Tanh => dy.abs() * (1.0 + y * y),
            ActivationKind::LeakyRelu => dy.abs(),
            // exp's error grows with its argument.
            ActivationKind::Gelu => dy.abs() * (1.0 + x_density(y).abs() * (1.0 + y * y)),
        })
    }

    fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for kind in ActivationKind::ALL {
            for (name, y) in [("outputs in (-1, 1)", Fill::Uniform(-1.0, 1.0)), ("zeros", Fill::Ties)] {
                let shape = [3, 7, 5, 9];
                let inputs = vec![CaseInput::f32(shape, y), CaseInput::normal(shape)];
                cases.push(Case::new(ActivationBackward { kind }, name, inputs, 1));
            }
            let conv1 = vec![CaseInput::normal([2, 96, 55, 55]); 2];
            cases.push(Case::new(ActivationBackward { kind }, "alexnet conv1", conv1, 1));
        }
        cases
    }

    fn random(draw: &mut Draw) -> Case {
        let kind = draw.pick(ActivationKind::ALL);
        let shape = draw.shape();
        let y = draw.any(); // not only what the function gives: the formula is of any y
        let inputs = vec![CaseInput::f32(shape.clone(), y), CaseInput::f32(shape, draw.any())];
        Case::new(ActivationBackward { kind }, "random", inputs, 1)
    }
}
