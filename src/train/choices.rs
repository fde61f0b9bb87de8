//! What the settings of a run choose between: as options, in `config.toml`, and in the terms of the modules that do the work.

use serde::{Deserialize, Serialize};

use crate::backend::Precision;
use crate::data::Resize;
use crate::graph::partition::Parallel;
use crate::ops::ActivationKind;

/// What is cut over several devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ParallelKind {
    /// Each layer's kernels and neurons: every device holds a part of the parameters and sees all pictures
    Model,
    /// The batch: every device sees a part of the pictures, and is sent the parameters when it needs them
    Data,
}

impl From<ParallelKind> for Parallel {
    fn from(kind: ParallelKind) -> Parallel {
        match kind {
            ParallelKind::Model => Parallel::Model,
            ParallelKind::Data => Parallel::Data,
        }
    }
}

/// How the optimizer turns gradients into updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum
    Sgd,
    /// Adam; weight decay is added to the gradient
    Adam,
    /// Adam with decoupled weight decay
    Adamw,
}

/// How the learning rate changes over a run. See [`super::schedule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Always --lr
    Constant,
    /// Half a cosine from --lr to --min-lr over --epochs
    Cosine,
    /// Times --lr-factor each --step-epochs
    Step,
    /// Times --lr-factor when validation error has not improved for --lr-patience epochs
    Plateau,
}

/// What is done to a training picture on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Augmentation {
    /// Nothing
    Off,
    /// Mirror half of the pictures
    Flip,
    /// A random place (224 of 256 pixels, or in proportion), and flip
    Crop,
    /// A random part of at least --min-area of the picture, scaled, and flip
    Resized,
}

/// How a picture of any size becomes a square one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ResizeKind {
    /// Both sides to the size, whatever the aspect
    Stretch,
    /// The shorter side to the size, then the centre
    ShorterSide,
}

impl From<ResizeKind> for Resize {
    fn from(kind: ResizeKind) -> Resize {
        match kind {
            ResizeKind::Stretch => Resize::Stretch,
            ResizeKind::ShorterSide => Resize::ShorterSide,
        }
    }
}

/// How weights start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum InitKind {
    /// As the model file says
    Model,
    /// Normal with variance 2 / fan-in, biases 0
    He,
    /// Uniform within 1 / sqrt(fan-in), as PyTorch's layers
    Pytorch,
}

/// What stands in for a model's activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationChoice {
    /// max(x, 0)
    Relu,
    /// tanh(x)
    Tanh,
    /// 1 / (1 + exp(-x))
    Sigmoid,
    /// x, or a hundredth of it below 0
    LeakyRelu,
    /// x times the probability of a normal number below x
    Gelu,
}

impl From<ActivationChoice> for ActivationKind {
    fn from(choice: ActivationChoice) -> ActivationKind {
        match choice {
            ActivationChoice::Relu => ActivationKind::Relu,
            ActivationChoice::Tanh => ActivationKind::Tanh,
            ActivationChoice::Sigmoid => ActivationKind::Sigmoid,
            ActivationChoice::LeakyRelu => ActivationKind::LeakyRelu,
            ActivationChoice::Gelu => ActivationKind::Gelu,
        }
    }
}

/// When dropout makes up for what it drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DropoutForm {
    /// In training: kept values are divided by the keep rate
    Inverted,
    /// In evaluation: values are multiplied by the keep rate
    Paper,
}

/// The numbers that convolutions and fully connected layers multiply; all else is in 32-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PrecisionKind {
    /// 32-bit floats
    #[default]
    F32,
    /// 32-bit floats rounded to 10 bits of fraction, by NVIDIA's tensor cores (--adapter cuda)
    Tf32,
    /// bfloat16, or tf32 where that is faster, by NVIDIA's tensor cores (--adapter cuda)
    Bf16,
    /// 16-bit floats, gradients scaled; sums and weights stay in 32-bit floats
    F16,
}

impl PrecisionKind {
    /// For steps of so many pictures.
    pub fn of_batch(self, batch: usize) -> Precision {
        match self {
            PrecisionKind::F32 => Precision::F32,
            PrecisionKind::Tf32 => Precision::Tf32,
            PrecisionKind::Bf16 => Precision::Bf16,
            PrecisionKind::F16 => Precision::f16(batch),
        }
    }
}
