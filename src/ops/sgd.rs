//! Stochastic gradient descent with momentum.

use super::case::{Case, CaseInput, Fill};
use super::draw::Draw;
use super::tolerance::relative;
use super::{Array, Forward, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::TensorType;

/// In place on w and v. Inputs: w, g, v (one shape), schedule `f32 [4] = [lr, 1-beta1^t, 1-beta2^t, 0]`. Outputs: w, v.
///
/// `paper` (Krizhevsky 2012, section 5): v <- momentum*v - weight_decay*lr*w - lr*g; w <- w + v.
/// Otherwise as PyTorch: d = g + weight_decay*w; v <- momentum*v + d; w <- w - lr*(nesterov ? d + momentum*v : v).
/// lr is the schedule's times `lr_scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sgd {
    /// 0 for plain SGD.
    pub momentum: f32,
    /// L2 coefficient.
    pub weight_decay: f32,
    /// Nesterov's momentum (not with `paper`).
    pub nesterov: bool,
    /// The paper's form, whose velocity holds the learning rate.
    pub paper: bool,
    /// The parameter's own factor of the learning rate (Caffe: 2 for biases).
    pub lr_scale: f32,
}

impl Operator for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [w, g, v, schedule] = inputs_f32(inputs)?;
        expect_shape("the gradient", &g, &w)?;
        expect_shape("the velocity", &v, &w)?;
        expect_shape("the schedule", &schedule, &[4].into())?;
        if self.paper && self.nesterov {
            return Err("the paper's form of momentum has no Nesterov variant".into());
        }
        Ok(vec![TensorType::f32(w), TensorType::f32(v)])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (mut w, g, mut v) = (inputs[0].clone(), &inputs[1], inputs[2].clone());
        let lr = inputs[3].data[0] * self.lr_scale as f64;
        let (momentum, decay) = (self.momentum as f64, self.weight_decay as f64);
        for ((w, g), v) in w.data.iter_mut().zip(&g.data).zip(&mut v.data) {
            if self.paper {
                *v = momentum * *v - decay * lr * *w - lr * g;
                *w += *v;
            } else {
                let d = g + decay * *w;
                *v = momentum * *v + d;
                *w -= lr * if self.nesterov { d + momentum * *v } else { *v };
            }
        }
        vec![w, v]
    }

    fn aliases(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 2)]
    }

    /// The formula with every part made positive.
    fn scale(&self, inputs: &[Array], _: &[Array]) -> Vec<Array> {
        let mut sizes = relative(inputs);
        sizes[3].data[0] *= -1.0; // what is taken off is added
        self.reference(&sizes)
    }

    fn cases() -> Vec<Case> {
        let plain = Sgd { momentum: 0.0, weight_decay: 0.0, nesterov: false, paper: false, lr_scale: 1.0 };
        let momentum = Sgd { momentum: 0.9, weight_decay: 5e-4, ..plain.clone() };
        let case = |name, op: &Sgd, n: usize| {
            let schedule = CaseInput::f32([4], Fill::Given(vec![0.05, 0.1, 0.001, 0.0]));
            let mut inputs = vec![CaseInput::normal([n]); 3];
            inputs.push(schedule);
            Case::new(op.clone(), name, inputs, 1)
        };
        vec![
            case("plain", &plain, 5),
            case("many elements", &momentum, 600_011),
            case("momentum", &momentum, 1031),
            case("nesterov", &Sgd { nesterov: true, ..momentum.clone() }, 67),
            case("paper", &Sgd { paper: true, ..momentum.clone() }, 129),
            case("bias of the paper's source", &Sgd { paper: true, lr_scale: 2.0, weight_decay: 0.0, ..momentum }, 96),
        ]
    }

    fn random(draw: &mut Draw) -> Case {
        let (nesterov, paper) = draw.pick([(false, false), (true, false), (false, true)]);
        let op = Sgd {
            momentum: draw.pick([0.0, 0.9]),
            weight_decay: draw.pick([0.0, 5e-4]),
            nesterov,
            paper,
            lr_scale: draw.pick([1.0, 2.0, 0.1]),
        };
        let shape = draw.shape();
        let mut inputs: Vec<_> = (0..3).map(|_| CaseInput::f32(shape.clone(), draw.finite())).collect();
        inputs[1].fill = draw.any();
        inputs.push(CaseInput::f32([4], Fill::Given(vec![0.05, 0.1, 0.001, 0.0])));
        Case::new(op, "random", inputs, 1)
    }
}
