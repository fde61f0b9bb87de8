//! An average that follows what is measured step by step: batch normalisation's mean and variance for evaluation.

use super::case::{Case, CaseInput};
use super::draw::Draw;
use super::tolerance::pairwise;
use super::{Array, Forward, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::TensorType;

/// In place: `average <- (1 - momentum) * average + momentum * factor * measured`. Inputs: average, measured, of one shape. Output: the
/// average.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningAverage {
    /// Weight of what is new, in [0, 1], as PyTorch has it.
    pub momentum: f32,
    /// What the measured values are multiplied by: n / (n - 1) makes a sample's variance an estimate of its population's.
    pub factor: f32,
}

impl RunningAverage {
    /// The weights of the old average and of what is measured.
    pub fn weights(&self) -> [f32; 2] {
        [(1.0 - self.momentum as f64) as f32, (self.momentum as f64 * self.factor as f64) as f32]
    }
}

impl Operator for RunningAverage {
    fn name(&self) -> &'static str {
        "running_average"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [average, measured] = inputs_f32(inputs)?;
        expect_shape("what is measured", &measured, &average)?;
        if !(0.0..=1.0).contains(&self.momentum) || !self.factor.is_finite() {
            let RunningAverage { momentum, factor } = self;
            return Err(format!("momentum must be in [0, 1] and the factor finite, got {momentum} and {factor}"));
        }
        Ok(vec![TensorType::f32(average)])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (momentum, factor) = (self.momentum as f64, self.factor as f64);
        pairwise(&inputs[0], &inputs[1], |average, new| (1.0 - momentum) * average + momentum * factor * new)
    }

    fn aliases(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn scale(&self, inputs: &[Array], _: &[Array]) -> Vec<Array> {
        let (momentum, factor) = (self.momentum as f64, self.factor as f64);
        pairwise(&inputs[0], &inputs[1], |average, new| average.abs() + (momentum * factor * new).abs())
    }

    fn cases() -> Vec<Case> {
        let case = |(momentum, factor, n): (f32, f32, usize)| {
            let inputs = vec![CaseInput::normal([n]), CaseInput::normal([n])];
            Case::new(RunningAverage { momentum, factor }, format!("[{n}], {momentum}"), inputs, 1)
        };
        [(0.1, 1.0, 1), (0.1, 4.0 / 3.0, 37), (0.0, 1.0, 5), (1.0, 1.0, 5), (0.03, 1.001, 4099)].map(case).into()
    }

    fn random(draw: &mut Draw) -> Case {
        let (momentum, factor) = (draw.pick([0.1, 0.0, 1.0, 0.01]), draw.pick([1.0, 1.25]));
        let shape = draw.shape();
        let inputs = vec![CaseInput::f32(shape.clone(), draw.finite()), CaseInput::f32(shape, draw.any())];
        Case::new(RunningAverage { momentum, factor }, "random", inputs, 1)
    }
}
