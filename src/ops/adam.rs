//! Adam (Kingma, Ba 2014) and AdamW (Loshchilov, Hutter 2017).

use super::case::{Case, CaseInput, Fill};
use super::draw::Draw;
use super::tolerance::{FLUSHED, relative};
use super::{Array, Forward, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::TensorType;

/// In place on w, m, v. Inputs: w, g, m, v (one shape), schedule `f32 [4] = [lr, 1-beta1^t, 1-beta2^t, 0]` (t from 1; the host
/// computes the powers in f64). Outputs: w, m, v.
///
/// d = g (+ weight_decay*w unless decoupled); m <- beta1*m + (1-beta1)*d; v <- beta2*v + (1-beta2)*d*d;
/// decoupled: w <- w - lr*weight_decay*w first; w <- w - lr * (m/c1) / (sqrt(v/c2) + epsilon), c1, c2 the schedule's. lr is the
/// schedule's times `lr_scale`. d * d must be within f32: |d| below 1e19.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root.
    pub epsilon: f32,
    /// L2 coefficient.
    pub weight_decay: f32,
    /// AdamW: decay apart from the gradient.
    pub decoupled: bool,
    /// The parameter's own factor of the learning rate.
    pub lr_scale: f32,
}

impl Operator for Adam {
    fn name(&self) -> &'static str {
        if self.decoupled { "adamw" } else { "adam" }
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [w, g, m, v, schedule] = inputs_f32(inputs)?;
        expect_shape("the gradient", &g, &w)?;
        expect_shape("the first moment", &m, &w)?;
        expect_shape("the second moment", &v, &w)?;
        expect_shape("the schedule", &schedule, &[4].into())?;
        Ok(vec![TensorType::f32(w), TensorType::f32(m), TensorType::f32(v)])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (mut w, mut m, mut v) = (inputs[0].clone(), inputs[2].clone(), inputs[3].clone());
        let [lr, c1, c2] = [0, 1, 2].map(|i| inputs[4].data[i]);
        let lr = lr * self.lr_scale as f64;
        let (beta1, beta2, decay) = (self.beta1 as f64, self.beta2 as f64, self.weight_decay as f64);
        for (i, g) in inputs[1].data.iter().enumerate() {
            let (w, m, v) = (&mut w.data[i], &mut m.data[i], &mut v.data[i]);
            let d = if self.decoupled { *g } else { g + decay * *w };
            if self.decoupled {
                *w -= lr * decay * *w;
            }
            *m = beta1 * *m + (1.0 - beta1) * d;
            *v = beta2 * *v + (1.0 - beta2) * d * d;
            *w -= lr * (*m / c1) / ((*v / c2).sqrt() + self.epsilon as f64);
        }
        vec![w, m, v]
    }

    fn aliases(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 2), (2, 3)]
    }

    /// The formula with every part made positive, and the reference's own second moment.
    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        let mut sizes = relative(inputs);
        sizes[4].data[0] *= -1.0; // what is taken off is added
        let mut scales = self.reference(&sizes);
        let lr = inputs[4].data[0] * self.lr_scale as f64;
        let [c1, c2] = [1, 2].map(|i| inputs[4].data[i]);
        let decay = if self.decoupled { lr * self.weight_decay as f64 } else { 0.0 };
        for (i, w) in scales[0].data.iter_mut().enumerate() {
            let (m, v) = (sizes[2].data[i].max(0.0), outputs[2].data[i]);
            let d = sizes[1].data[i] + if self.decoupled { 0.0 } else { self.weight_decay as f64 * sizes[0].data[i] };
            let m = self.beta1 as f64 * m + (1.0 - self.beta1 as f64) * d + FLUSHED;
            *w = sizes[0].data[i] * (1.0 + decay) + lr * (m / c1) / ((v / c2).sqrt() + self.epsilon as f64);
        }
        scales
    }

    fn cases() -> Vec<Case> {
        let adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, decoupled: false, lr_scale: 1.0 };
        let case = |name, op: &Adam, n: usize| {
            let schedule = CaseInput::f32([4], Fill::Given(vec![0.01, 0.271, 0.002_997, 0.0]));
            let moment = |fill| CaseInput::f32([n], fill);
            let inputs = vec![
                CaseInput::normal([n]),
                CaseInput::normal([n]),
                moment(Fill::Normal(0.1)),
                moment(Fill::Uniform(0.0, 0.01)),
                schedule,
            ];
            Case::new(op.clone(), name, inputs, 1)
        };
        let first = |mut case: Case| {
            case.inputs[2..].iter_mut().for_each(|moment| moment.fill = Fill::Given(vec![0.0]));
            case.inputs[4].fill = Fill::Given(vec![0.01, 0.1, 0.001, 0.0]);
            case
        };
        let decay = Adam { weight_decay: 0.01, ..adam.clone() };
        vec![
            first(case("first step", &adam, 517)),
            first(case("first step, adamw", &Adam { decoupled: true, ..decay.clone() }, 11)),
            case("adam", &adam, 1031),
            case("weight decay", &decay, 67),
            case("adamw", &Adam { decoupled: true, lr_scale: 2.0, ..decay }, 129),
            case("one element", &adam, 1),
            case("many elements", &adam, 600_011),
        ]
    }

    fn random(draw: &mut Draw) -> Case {
        let op = Adam {
            beta1: draw.pick([0.9, 0.5]),
            beta2: draw.pick([0.999, 0.9]),
            epsilon: draw.pick([1e-8, 0.01]),
            weight_decay: draw.pick([0.0, 0.01]),
            decoupled: draw.below(2) == 1,
            lr_scale: draw.pick([1.0, 2.0, 0.1]),
        };
        let shape = draw.shape();
        // In the first step, the moments are 0.
        let [m, v, schedule] = match draw.below(4) {
            3 => [Fill::Given(vec![0.0]), Fill::Given(vec![0.0]), Fill::Given(vec![0.01, 0.1, 0.001, 0.0])],
            _ => [Fill::Normal(0.1), Fill::Uniform(0.0, 0.01), Fill::Given(vec![0.01, 0.271, 0.002_997, 0.0])],
        };
        let inputs = vec![
            CaseInput::f32(shape.clone(), draw.finite()),
            CaseInput::f32(shape.clone(), draw.any()),
            CaseInput::f32(shape.clone(), m),
            CaseInput::f32(shape, v),
            CaseInput::f32([4], schedule),
        ];
        Case::new(op, "random", inputs, 1)
    }
}
