//! First values of parameters: functions of the run's seed and the parameter's number.

use std::fmt::Formatter;

use rayon::prelude::*;
use serde::de::{self, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::LayerScales;
use crate::error::Error;
use crate::graph::ValueId;
use crate::rng::{Philox, stream, unit};
use crate::tensor::{Shape, Tensor, zeros};

/// How the weights of a layer start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// N(0, sigma) with this sigma; the paper's is 0.01. `{ normal = 0.01 }` in a file.
    Normal(f32),
    /// N(0, 2 / fan-in), which keeps the size of activations through ReLUs (He et al. 2015); zero in the last layer, so that
    /// training starts from equal probabilities instead of from large random logits.
    #[default]
    He,
    /// Weights, and biases without a number of their own, uniform in +-1 / sqrt(fan-in): what PyTorch's layers start with.
    PyTorch,
}

impl<'de> Deserialize<'de> for Init {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Init, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = Init;

            fn expecting(&self, f: &mut Formatter) -> std::fmt::Result {
                f.write_str("\"he\", \"pytorch\" or { normal = 0.01 }, the deviation")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Init, E> {
                match name {
                    "he" => Ok(Init::He),
                    "pytorch" => Ok(Init::PyTorch),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Init, A::Error> {
                let mut deviation = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key != "normal" {
                        return Err(de::Error::invalid_value(Unexpected::Other(&format!("a key `{key}`")), &self));
                    }
                    let given: f64 = map.next_value()?;
                    if !(0.0..=f64::from(f32::MAX)).contains(&given) {
                        let expected = "a deviation of 0 or more";
                        return Err(de::Error::invalid_value(Unexpected::Float(given), &expected));
                    }
                    deviation = Some(given as f32);
                }
                let lacks = || de::Error::invalid_value(Unexpected::Other("an empty table"), &self);
                deviation.map(Init::Normal).ok_or_else(lacks)
            }
        }

        deserializer.deserialize_any(Written)
    }
}

/// Distribution of a parameter's first values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    /// Every element this value.
    Constant(f32),
    /// N(0, sigma).
    Normal(f32),
    /// Uniform in [-bound, bound).
    Uniform(f32),
}

impl Init {
    /// First weights of a layer whose outputs each see `fan_in` inputs; `last` for the one that gives the logits.
    pub(super) fn weight(self, fan_in: usize, last: bool) -> Initial {
        match self {
            Init::Normal(sigma) => Initial::Normal(sigma),
            Init::He if last => Initial::Constant(0.0),
            Init::He => Initial::Normal((2.0 / fan_in as f64).sqrt() as f32),
            Init::PyTorch => Initial::Uniform((1.0 / fan_in as f64).sqrt() as f32),
        }
    }

    /// First bias of such a layer, where the model file says none.
    pub(super) fn bias(self, fan_in: usize) -> Initial {
        match self {
            Init::PyTorch => self.weight(fan_in, false),
            _ => Initial::Constant(0.0),
        }
    }
}

/// A tensor of a network that lasts from step to step: trained, or a statistic of what it saw.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its value in the graph.
    pub value: ValueId,
    /// `conv1.weight`: `[O, I/groups, H, W]` of a convolution, `[out, in]` of a linear layer; `conv1.bias`: `[O]`.
    pub name: String,
    /// Extents.
    pub shape: Shape,
    /// Its number in the model, from 0: the step of its random stream.
    pub number: u32,
    /// Where it starts.
    pub initial: Initial,
    /// What it is, since optimizers may treat some apart.
    pub kind: ParameterKind,
    /// What its layer says of its training.
    pub scales: LayerScales,
}

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// Of a convolution or linear layer.
    Weight,
    /// Added to each channel.
    Bias,
    /// What batch normalisation multiplies each channel by: its `weight`.
    Scale,
    /// Not trained: a running average of batch normalisation, `running_mean` or `running_var`.
    Statistic,
}

impl Parameter {
    /// Whether it is one that optimizers change, and no statistic.
    pub fn is_trained(&self) -> bool {
        self.kind != ParameterKind::Statistic
    }

    /// Whether its layer says that it stays as it is.
    pub fn is_frozen(&self) -> bool {
        let LayerScales { lr_scale, bias_lr_scale, .. } = self.scales;
        lr_scale == 0.0 || (self.kind == ParameterKind::Bias && bias_lr_scale == Some(0.0))
    }

    /// Its first values for a run with this seed.
    ///
    /// # Errors
    /// When the machine has not so much memory.
    pub fn initial(&self, seed: u64) -> crate::Result<Tensor> {
        let random = Philox { seed, stream: stream::INIT, step: self.number };
        let mut values = zeros(self.shape.elements()).map_err(Error::device)?;
        // In pieces on all processors: each number depends on its place alone. AlexNet's 58 million take seconds on one.
        values.par_chunks_mut(PIECE).enumerate().for_each(|(piece, values)| {
            let first = piece * PIECE;
            match self.initial {
                Initial::Constant(value) => values.fill(value),
                Initial::Normal(sigma) => {
                    random.normal_from((first / 2) as u32, values);
                    values.iter_mut().for_each(|v| *v *= sigma);
                }
                Initial::Uniform(bound) => {
                    for (block, values) in values.chunks_mut(4).enumerate() {
                        for (value, word) in values.iter_mut().zip(random.block((first / 4 + block) as u32)) {
                            *value = (2.0 * unit(word) - 1.0) * bound;
                        }
                    }
                }
            }
        });
        Tensor::f32(self.shape.clone(), values).map_err(Error::device)
    }
}

/// Values that one thread draws at a time; a multiple of 4, the words of a Philox block.
const PIECE: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(initial: Initial, number: u32) -> Parameter {
        let shape = [100, 37].into();
        let (kind, scales) = (ParameterKind::Weight, LayerScales::default());
        Parameter { value: ValueId(0), name: "w".into(), shape, number, initial, kind, scales }
    }

    #[test]
    fn values_have_their_distribution_and_depend_on_seed_and_number() {
        let moments = |initial| {
            let tensor = parameter(initial, 1).initial(5).unwrap();
            let values = tensor.as_f32().unwrap();
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32;
            (mean, variance.sqrt())
        };
        // Five standard errors of 3700 draws.
        let (mean, deviation) = moments(Initial::Normal(0.01));
        assert!(mean.abs() < 0.0009 && (deviation - 0.01).abs() < 0.0006, "{mean} {deviation}");
        let (mean, deviation) = moments(Initial::Uniform(3.0));
        assert!(mean.abs() < 0.15 && (deviation - 3.0_f32.sqrt()).abs() < 0.08, "{mean} {deviation}");
        assert_eq!(moments(Initial::Constant(1.0)), (1.0, 0.0));
        // More than one piece: the whole is what one thread would draw.
        let large = Parameter { shape: [3, PIECE - 1].into(), ..parameter(Initial::Normal(1.0), 4) };
        let mut expected = vec![0.0; 3 * (PIECE - 1)];
        Philox { seed: 5, stream: stream::INIT, step: 4 }.normal(&mut expected);
        assert_eq!(large.initial(5).unwrap().as_f32().unwrap(), expected);
        let of = |number, seed| parameter(Initial::Normal(1.0), number).initial(seed).unwrap();
        assert_eq!(of(1, 5), of(1, 5));
        assert_ne!(of(1, 5), of(2, 5));
        assert_ne!(of(1, 5), of(1, 6));
    }
}
