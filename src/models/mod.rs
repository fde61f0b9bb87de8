//! The model zoo and the reader of model files. A model is data: a TOML file that lists its layers (`zoo/alexnet.toml` is the
//! best example); `build` turns it into a graph, [`train_graph`] and [`eval_graph`] into what a device runs.

mod build;
mod fold;
mod init;
mod layer;
mod optimizer;
mod options;
mod parse;
mod see;
mod step;
mod zoo;

pub use build::{LayerInfo, Network, Phase};
pub use fold::Fold;
pub use init::{Init, Initial, Parameter, ParameterKind};
pub use layer::{Bias, Extent, Features, Layer, LayerKind, Place};
pub use optimizer::{LayerScales, OptimizerConfig, Rule};
pub use options::{BuildOptions, with_margin};
pub use see::MEAN_IMAGE;
pub use step::{EvalGraph, MixInputs, TrainGraph, ViewGraph, eval_graph, train_graph, view_graph};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::ops::ActivationKind;

/// A network as its file describes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Model {
    /// What checkpoints and run folders call it.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// Channels (3: RGB), height and width of the pictures it was made for.
    pub input: [usize; 3],
    /// What layers of kind `activation` compute: `"relu"`, `"sigmoid"`, `"tanh"`, `"leaky_relu"` or `"gelu"`.
    #[serde(serialize_with = "layer::activation_name::serialize")]
    pub activation: ActivationKind,
    /// First weights of layers that do not say their own.
    pub init: Init,
    /// From the picture to the logits.
    pub layers: Vec<Layer>,
}

impl Model {
    /// The same network with this activation in place of every other. Its layers keep their names.
    ///
    /// # Errors
    /// When it has no activation.
    pub fn with_activation(mut self, kind: ActivationKind) -> Result<Model> {
        if !self.layers.iter().any(|layer| layer.kind.is_activation()) {
            return Err(Error::input(format!("{} has no activation that could be {}", self.name, kind.name())));
        }
        self.activation = kind;
        for layer in self.layers.iter_mut().filter(|layer| layer.kind.is_activation()) {
            layer.kind = LayerKind::Activation {};
        }
        Ok(self)
    }

    /// The same network, but biases that start above 0 start at `start`: the paper's 1 was found slow, Caffe's 0.1 less so.
    ///
    /// # Errors
    /// When none of its biases starts above 0.
    pub fn with_biases(mut self, start: f32) -> Result<Model> {
        let mut changed = false;
        for layer in &mut self.layers {
            if let LayerKind::Conv2d { bias, .. } | LayerKind::Linear { bias, .. } = &mut layer.kind
                && bias.start().is_some_and(|old| old > 0.0)
            {
                (*bias, changed) = (Bias::Start(start), true);
            }
        }
        if !changed {
            return Err(Error::input(format!(
                "no bias of {} starts above 0, so that none could start at {start}",
                self.name
            )));
        }
        Ok(self)
    }

    /// The model as TOML, which [`Model::parse`] reads back: what a checkpoint carries.
    ///
    /// # Errors
    /// When a number has no place in TOML (above 2^63).
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::input(format!("the model {} cannot be written: {e}", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;

    #[test]
    fn activations_and_biases_can_be_replaced() {
        let model = Model::find("alexnet").unwrap().with_activation(ActivationKind::Gelu).unwrap();
        let mut graph = Graph::new();
        let network = model.with_biases(0.1).unwrap();
        let network = network.build(&mut graph, &BuildOptions::new(1, 2), Phase::Training).unwrap();
        let gelus = network.layers.iter().filter(|layer| layer.op == "gelu").count();
        assert_eq!((gelus, network.layers.iter().filter(|layer| layer.op == "relu").count()), (7, 0));
        let start = |name: &str| network.parameters.iter().find(|p| p.name == name).unwrap().initial;
        assert_eq!(start("conv2.bias"), Initial::Constant(0.1));
        assert_eq!(start("conv3.bias"), Initial::Constant(0.0));
        assert!(Model::find("vgg11").unwrap().with_biases(0.1).unwrap_err().to_string().contains("no bias of vgg11"));
    }
}
