//! Optimizers as nodes of the training graph: one update node per parameter, its state beside it.

use serde::{Deserialize, Serialize};

use super::{Parameter, ParameterKind};
use crate::error::{Error, Result};
use crate::graph::{Graph, Role, ValueId};
use crate::ops::{Adam, Op, Sgd};
use crate::tensor::TensorType;

/// An optimizer and how it treats biases. The learning rate is not here: it comes each step by the graph's `schedule` input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The update rule.
    pub rule: Rule,
    /// L2 coefficient, or AdamW's decay.
    pub weight_decay: f32,
    /// Whether biases decay too, and the scales of batch normalisation. The paper's formula has it so; its released source and Caffe
    /// do not.
    pub decay_biases: bool,
    /// Factor of the biases' learning rate (the paper's released source and Caffe: 2).
    pub bias_lr_scale: f32,
}

/// What a layer says of its own training: `lr_scale`, `bias_lr_scale` and `decay_scale` of a model file, factors of the run's learning
/// rate and weight decay (Caffe's `lr_mult` and `decay_mult`; the 2012 source has numbers of its own for each layer).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LayerScales {
    /// Factor of the learning rate of all its parameters. 0: they stay as they are, and no gradient is computed for them.
    #[serde(skip_serializing_if = "is_one")]
    pub lr_scale: f32,
    /// Factor, beside `lr_scale`, of its bias's learning rate; [`OptimizerConfig::bias_lr_scale`] when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias_lr_scale: Option<f32>,
    /// Factor of the weight decay of all its parameters that decay.
    #[serde(skip_serializing_if = "is_one")]
    pub decay_scale: f32,
}

impl Default for LayerScales {
    fn default() -> Self {
        LayerScales { lr_scale: 1.0, bias_lr_scale: None, decay_scale: 1.0 }
    }
}

impl LayerScales {
    /// Its keys in a model file.
    pub(super) const KEYS: [&str; 3] = ["lr_scale", "bias_lr_scale", "decay_scale"];
}

fn is_one(value: &f32) -> bool {
    *value == 1.0
}

/// Update rules; the formulas are [`Sgd`]'s and [`Adam`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Rule {
    /// Stochastic gradient descent.
    Sgd {
        /// 0 for none.
        momentum: f32,
        /// Nesterov's momentum.
        nesterov: bool,
        /// The paper's form, whose velocity holds the learning rate.
        paper: bool,
    },
    /// Adam, or AdamW when `decoupled`.
    Adam {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the root.
        epsilon: f32,
        /// Weight decay apart from the gradient.
        decoupled: bool,
    },
}

impl OptimizerConfig {
    /// SGD as PyTorch has it.
    pub fn sgd(momentum: f32, weight_decay: f32) -> Self {
        Self::new(Rule::Sgd { momentum, nesterov: false, paper: false }, weight_decay)
    }

    /// The paper's SGD: momentum 0.9, weight decay 5e-4 on everything, in the paper's form.
    pub fn paper() -> Self {
        Self::new(Rule::Sgd { momentum: 0.9, nesterov: false, paper: true }, 5e-4)
    }

    /// Adam with the authors' constants; `weight_decay` is added to the gradient.
    pub fn adam(weight_decay: f32) -> Self {
        Self::new(Rule::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decoupled: false }, weight_decay)
    }

    /// AdamW with the authors' constants; biases do not decay.
    pub fn adamw(weight_decay: f32) -> Self {
        let rule = Rule::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decoupled: true };
        OptimizerConfig { decay_biases: false, ..Self::new(rule, weight_decay) }
    }

    fn new(rule: Rule, weight_decay: f32) -> Self {
        OptimizerConfig { rule, weight_decay, decay_biases: true, bias_lr_scale: 1.0 }
    }

    /// Schedule input of a step: [lr, 1 - beta1^t, 1 - beta2^t, 0], t the number of the update from 1.
    pub fn schedule(&self, learning_rate: f64, t: u64) -> [f32; 4] {
        let correction = |beta: f32| (1.0 - (beta as f64).powf(t as f64)) as f32;
        match self.rule {
            Rule::Sgd { .. } => [learning_rate as f32, 1.0, 1.0, 0.0],
            Rule::Adam { beta1, beta2, .. } => [learning_rate as f32, correction(beta1), correction(beta2), 0.0],
        }
    }

    /// Names of the state that a parameter carries, after its own name.
    fn state_names(&self) -> &'static [&'static str] {
        match self.rule {
            Rule::Sgd { .. } => &["velocity"],
            Rule::Adam { .. } => &["m", "v"],
        }
    }

    /// Appends the update of `parameter` by `gradient`; returns the names and types of its state, all of which starts at 0.
    pub(super) fn append(
        &self,
        graph: &mut Graph,
        parameter: &Parameter,
        gradient: ValueId,
        schedule: ValueId,
    ) -> Result<Vec<(String, TensorType)>> {
        let decays = parameter.kind == ParameterKind::Weight || self.decay_biases;
        let scales = parameter.scales;
        let weight_decay = if decays { self.weight_decay * scales.decay_scale } else { 0.0 };
        let lr_scale = match parameter.kind {
            ParameterKind::Bias => scales.lr_scale * scales.bias_lr_scale.unwrap_or(self.bias_lr_scale),
            _ => scales.lr_scale,
        };
        if !lr_scale.is_finite() {
            let name = &parameter.name;
            return Err(Error::input(format!("{name}: lr_scale times bias_lr_scale is more than a 32-bit float has")));
        }
        let op: Op = match self.rule {
            Rule::Sgd { momentum, nesterov, paper } => Sgd { momentum, weight_decay, nesterov, paper, lr_scale }.into(),
            Rule::Adam { beta1, beta2, epsilon, decoupled } => {
                Adam { beta1, beta2, epsilon, weight_decay, decoupled, lr_scale }.into()
            }
        };
        let ty = graph[parameter.value].ty.clone();
        let mut states = Vec::new();
        let mut inputs = vec![parameter.value, gradient];
        for state in self.state_names() {
            let name = format!("{}.{state}", parameter.name);
            inputs.push(graph.source(&name, ty.clone(), Role::State)?);
            states.push((name, ty.clone()));
        }
        inputs.push(schedule);
        graph.apply_all(&parameter.name, op, &inputs)?;
        Ok(states)
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// When one is outside its range; the message names it.
    pub fn validate(&self) -> Result<()> {
        let check = |name: &str, value: f32, range: &str, ok: bool| {
            let message = || Error::input(format!("{name} = {value}: expected a number {range}"));
            if ok { Ok(()) } else { Err(message()) }
        };
        let decay = |name, value: f32| check(name, value, "in [0, 1)", (0.0..1.0).contains(&value));
        let factor = |name, value: f32| check(name, value, "of 0 or more", value >= 0.0 && value.is_finite());
        match self.rule {
            Rule::Sgd { momentum, nesterov, paper } => {
                decay("momentum", momentum)?;
                if nesterov && (paper || momentum == 0.0) {
                    return Err(Error::input(
                        "nesterov needs momentum, and is not in the paper's rule: switch one off",
                    ));
                }
            }
            Rule::Adam { beta1, beta2, epsilon, .. } => {
                decay("beta1", beta1)?;
                decay("beta2", beta2)?;
                factor("epsilon", epsilon)?;
            }
        }
        factor("weight decay", self.weight_decay)?;
        factor("bias_lr_scale", self.bias_lr_scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_corrects_adams_bias() {
        let [lr, c1, c2, _] = OptimizerConfig::adam(0.0).schedule(0.01, 2);
        assert_eq!(lr, 0.01);
        assert!((c1 - 0.19).abs() < 1e-6 && (c2 - 0.001999).abs() < 1e-6, "{c1} {c2}");
        assert_eq!(OptimizerConfig::paper().schedule(0.5, 9), [0.5, 1.0, 1.0, 0.0]);
    }
}
