//! Layers as model files write them. Kinds have the ops' names; numbers that are left out have the field's usual values.

use serde::{Deserialize, Serialize};

use super::{Init, LayerScales, Model};
use crate::ops::ActivationKind;

/// A layer of a model file: `{ kind = "conv2d", out = 96, kernel = 11, stride = 4, padding = 2 }`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// Unique in the model; its parameters are `NAME.weight` and `NAME.bias`. In a file it may be left out: then it is Caffe's,
    /// such as conv1, relu1, norm1, pool1, fc6.
    pub name: String,
    /// Names of the layers that it reads, `input` for the picture; empty for the one before. `add` and `concat` read several; of one
    /// name, that layer and the one before. In a file a name or a list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// How its parameters are trained, where that differs from the others'.
    #[serde(flatten)]
    pub scales: LayerScales,
    /// What it computes.
    #[serde(flatten)]
    pub kind: LayerKind,
    /// Where it is in its file.
    #[serde(skip)]
    pub place: Place,
}

impl Layer {
    /// What a message is about, with the layer's place in its file in front where that says something.
    pub(super) fn placed(&self, about: &str) -> String {
        match self.place.0.as_str() {
            "" => about.into(),
            place => format!("{place}: {about}"),
        }
    }
}

/// Where a layer is in its file, for messages: `my.toml: line 3`; empty where that says nothing. It is no part of what a layer is, so
/// that all places are equal.
#[derive(Clone, Debug, Default)]
pub struct Place(pub String);

impl PartialEq for Place {
    fn eq(&self, _: &Place) -> bool {
        true
    }
}

/// Layer kinds; `kind` in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LayerKind {
    /// Convolution, [N, C, H, W] -> [N, out, P, Q].
    Conv2d {
        /// Output channels.
        out: u32,
        /// Height and width of the filters.
        kernel: Extent,
        /// Vertical and horizontal step.
        #[serde(default = "one")]
        stride: Extent,
        /// Zeros on each side.
        #[serde(default = "zero")]
        padding: Extent,
        /// Distance between taps.
        #[serde(default = "one")]
        dilation: Extent,
        /// Groups of channels that do not see each other (the paper's two towers: 2).
        #[serde(default = "one_group")]
        groups: u16,
        /// Start of the bias, or none.
        #[serde(default)]
        bias: Bias,
        /// First weights; the model's when left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        init: Option<Init>,
    },
    /// Fully connected, [N, I] -> [N, out].
    Linear {
        /// Output features: a number, or `"classes"`.
        out: Features,
        /// Start of the bias, or none.
        #[serde(default)]
        bias: Bias,
        /// First weights; the model's when left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        init: Option<Init>,
    },
    /// The model's `activation`.
    Activation {},
    /// max(x, 0).
    Relu {},
    /// 1 / (1 + exp(-x)).
    Sigmoid {},
    /// tanh(x).
    Tanh {},
    /// x, or a hundredth of it below 0.
    #[serde(alias = "leaky-relu")]
    LeakyRelu {},
    /// x times the probability of a normal number below x.
    Gelu {},
    /// Local response normalisation across channels. alpha is the paper's: not divided by `size`.
    Lrn {
        /// Channels in the window.
        #[serde(default = "lrn_size")]
        size: u16,
        /// Factor of the sum of squares.
        #[serde(default = "lrn_alpha")]
        alpha: f32,
        /// Exponent.
        #[serde(default = "lrn_beta")]
        beta: f32,
        /// Added to the sum.
        #[serde(default = "lrn_k")]
        k: f32,
        /// Groups of channels that do not see each other (the paper's two towers: 2).
        #[serde(default = "one_group")]
        groups: u16,
    },
    /// Largest of a window.
    #[serde(rename = "max_pool2d")]
    MaxPool2d {
        /// Height and width of the window.
        kernel: Extent,
        /// Vertical and horizontal step; the window's size when left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Extent>,
        /// Rows and columns on each side that never win.
        #[serde(default = "zero")]
        padding: Extent,
        /// Rounds the output size up.
        #[serde(default)]
        ceil_mode: bool,
    },
    /// Mean of a window.
    #[serde(rename = "avg_pool2d")]
    AvgPool2d {
        /// Height and width of the window.
        kernel: Extent,
        /// Vertical and horizontal step; the window's size when left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Extent>,
        /// Zeros on each side.
        #[serde(default = "zero")]
        padding: Extent,
        /// Rounds the output size up.
        #[serde(default)]
        ceil_mode: bool,
        /// Whether padding counts in the divisor.
        #[serde(default = "yes")]
        count_include_pad: bool,
    },
    /// Mean of whole planes: `[N, C, H, W] -> [N, C, 1, 1]`.
    #[serde(rename = "global_avg_pool2d")]
    GlobalAvgPool2d {},
    /// Means of windows, as many as the output's height and width ask for: PyTorch's, where these are alike.
    #[serde(rename = "adaptive_avg_pool2d")]
    AdaptiveAvgPool2d {
        /// Height and width of the output.
        output: Extent,
    },
    /// Batch normalisation of each channel; in evaluation by running averages of what training saw.
    BatchNorm {
        /// Added to the variance.
        #[serde(default = "batch_norm_epsilon")]
        epsilon: f32,
        /// Weight of each batch in the running averages.
        #[serde(default = "batch_norm_momentum")]
        momentum: f32,
    },
    /// Sum of two or more layers' outputs, element by element.
    Add {},
    /// Channels of two or more layers' outputs, one after the other.
    Concat {},
    /// Drops elements in training.
    Dropout {
        /// Probability of dropping, in [0, 1).
        rate: f32,
    },
    /// [N, C, H, W] -> [N, C*H*W].
    Flatten {},
}

impl LayerKind {
    /// The kind as the file writes it.
    pub fn name(&self) -> &'static str {
        match self {
            LayerKind::Conv2d { .. } => "conv2d",
            LayerKind::Linear { .. } => "linear",
            LayerKind::Activation {} => "activation",
            LayerKind::Relu {} => "relu",
            LayerKind::Sigmoid {} => "sigmoid",
            LayerKind::Tanh {} => "tanh",
            LayerKind::LeakyRelu {} => "leaky_relu",
            LayerKind::Gelu {} => "gelu",
            LayerKind::Lrn { .. } => "lrn",
            LayerKind::MaxPool2d { .. } => "max_pool2d",
            LayerKind::AvgPool2d { .. } => "avg_pool2d",
            LayerKind::GlobalAvgPool2d {} => "global_avg_pool2d",
            LayerKind::AdaptiveAvgPool2d { .. } => "adaptive_avg_pool2d",
            LayerKind::BatchNorm { .. } => "batch_norm",
            LayerKind::Add {} => "add",
            LayerKind::Concat {} => "concat",
            LayerKind::Dropout { .. } => "dropout",
            LayerKind::Flatten {} => "flatten",
        }
    }

    /// Caffe's name for such a layer, without its number.
    pub(super) fn prefix(&self) -> &'static str {
        match self {
            LayerKind::Conv2d { .. } => "conv",
            LayerKind::Linear { .. } => "fc",
            LayerKind::Activation {} => "act",
            LayerKind::Lrn { .. } => "norm",
            LayerKind::MaxPool2d { .. }
            | LayerKind::AvgPool2d { .. }
            | LayerKind::GlobalAvgPool2d {}
            | LayerKind::AdaptiveAvgPool2d { .. } => "pool",
            LayerKind::BatchNorm { .. } => "bn",
            LayerKind::Dropout { .. } => "drop",
            other => other.name(),
        }
    }

    /// Whether the layer has parameters that are trained.
    pub fn is_trained(&self) -> bool {
        self.has_weight() || matches!(self, LayerKind::BatchNorm { .. })
    }

    /// Whether the layer has a weight that sums of products are made with: the layers that Caffe's names count.
    pub fn has_weight(&self) -> bool {
        matches!(self, LayerKind::Conv2d { .. } | LayerKind::Linear { .. })
    }

    /// Whether it computes an activation, be it the model's or one of its own.
    pub fn is_activation(&self) -> bool {
        let LayerKind::Activation {} = self else {
            return ActivationKind::ALL.iter().any(|kind| kind.name() == self.name());
        };
        true
    }

    /// Whether it joins several layers' outputs.
    pub fn joins(&self) -> bool {
        matches!(self, LayerKind::Add {} | LayerKind::Concat {})
    }
}

impl Layer {
    /// Whether its name can name parameters in files, and its numbers can be computed with.
    pub(super) fn check(&self, model: &Model) -> Result<(), String> {
        if !self.name.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c)) {
            return Err("a layer's name has letters, digits, _, - and . only".into());
        }
        let number = |name: &str, value: f32, ok: bool, range: &str| match ok && value.is_finite() {
            true => Ok(()),
            false => Err(format!("{name} = {value}: expected a number {range}")),
        };
        match self.kind {
            LayerKind::Conv2d { bias, init, .. } | LayerKind::Linear { bias, init, .. } => {
                number("bias", bias.start().unwrap_or(0.0), true, "that is finite")?;
                match init.unwrap_or(model.init) {
                    Init::Normal(sigma) => number("normal", sigma, sigma >= 0.0, "of 0 or more"),
                    _ => Ok(()),
                }
            }
            LayerKind::Lrn { alpha, beta, k, .. } => {
                number("alpha", alpha, alpha >= 0.0, "of 0 or more")?;
                number("beta", beta, true, "that is finite")?;
                // The sum of squares may be 0, and is raised to a negative power.
                number("k", k, k > 0.0, "above 0")
            }
            LayerKind::BatchNorm { epsilon, momentum } => {
                number("epsilon", epsilon, epsilon >= f32::MIN_POSITIVE, "above 0")?;
                number("momentum", momentum, (0.0..=1.0).contains(&momentum), "from 0 to 1")
            }
            _ => Ok(()),
        }
    }
}

/// Height and width; in a file one number for both, or `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a whole number up to 65535, or [height, width]")]
pub enum Extent {
    /// Both.
    Square(u16),
    /// Height and width.
    Rectangle([u16; 2]),
}

impl From<Extent> for [usize; 2] {
    fn from(extent: Extent) -> Self {
        match extent {
            Extent::Square(side) => [side.into(); 2],
            Extent::Rectangle(sides) => sides.map(usize::from),
        }
    }
}

/// Output features of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "out: expected a whole number, or \"classes\"")]
pub enum Features {
    /// As many as it says.
    Number(u32),
    /// As many as there are classes.
    Named(Classes),
}

/// The word `"classes"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Classes {
    /// The only one.
    Classes,
}

/// Bias of a layer: where it starts, or `false` for none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "bias: expected the number it starts at, or false for none")]
pub enum Bias {
    /// Whether there is one; it then starts at 0.
    Switch(bool),
    /// Its first value.
    Start(f32),
}

impl Default for Bias {
    fn default() -> Self {
        Bias::Switch(true)
    }
}

impl Bias {
    /// Its first value, or `None` without a bias.
    pub fn start(self) -> Option<f32> {
        match self {
            Bias::Switch(present) => present.then_some(0.0),
            Bias::Start(value) => Some(value),
        }
    }
}

/// Activations by their names in files.
pub(super) mod activation_name {
    use super::*;

    pub fn serialize<S: serde::Serializer>(kind: &ActivationKind, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(kind.name())
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<ActivationKind, D::Error> {
        let given = String::deserialize(deserializer)?;
        let name = given.replace('-', "_"); // as --activation writes them
        ActivationKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names = ActivationKind::ALL.map(|kind| format!("{:?}", kind.name())).join(", ");
            serde::de::Error::custom(format!("activation = {given:?}: expected one of {names}"))
        })
    }
}

pub(super) fn relu() -> ActivationKind {
    ActivationKind::Relu
}

fn zero() -> Extent {
    Extent::Square(0)
}

fn one() -> Extent {
    Extent::Square(1)
}

fn one_group() -> u16 {
    1
}

fn yes() -> bool {
    true
}

fn lrn_size() -> u16 {
    5
}

fn lrn_alpha() -> f32 {
    1e-4
}

fn lrn_beta() -> f32 {
    0.75
}

fn lrn_k() -> f32 {
    2.0
}

fn batch_norm_epsilon() -> f32 {
    1e-5
}

fn batch_norm_momentum() -> f32 {
    0.1
}
