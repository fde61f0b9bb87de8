//! The model zoo and the reader of model files. A model is data: a TOML file that lists its layers (`zoo/alexnet.toml` is the
//! best example); `build` turns it into a graph, [`train_graph`] and [`eval_graph`] into what a device runs.

mod build;
mod init;
mod layer;
mod optimizer;
mod options;
mod step;

pub use build::{LayerInfo, Network, Phase};
pub use init::{Init, Initial, Parameter};
pub use layer::{Bias, Extent, Features, Layer, LayerKind};
pub use optimizer::{OptimizerConfig, Rule};
pub use options::BuildOptions;
pub use step::{EvalGraph, TrainGraph, ViewGraph, eval_graph, train_graph, view_graph};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, one_line, toml_message};
use crate::ops::ActivationKind;

/// The models that come with convoy: name and file.
const ZOO: [(&str, &str); 3] = [
    ("alexnet", include_str!("zoo/alexnet.toml")),
    ("alexnet-tutorial", include_str!("zoo/alexnet-tutorial.toml")),
    ("four-layer", include_str!("zoo/four-layer.toml")),
];

/// A network as its file describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What checkpoints and run folders call it.
    pub name: String,
    /// One line for people.
    #[serde(default)]
    pub about: String,
    /// Channels (3: RGB), height and width of the pictures it was made for.
    pub input: [usize; 3],
    /// What layers of kind `activation` compute: `"relu"`, `"sigmoid"` or `"tanh"`.
    #[serde(default = "layer::relu", with = "layer::activation_name")]
    pub activation: ActivationKind,
    /// First weights of layers that do not say their own.
    #[serde(default)]
    pub init: Init,
    /// From the picture to the logits.
    pub layers: Vec<Layer>,
}

impl Model {
    /// Names of the models that come with convoy.
    pub fn zoo() -> Vec<&'static str> {
        ZOO.iter().map(|(name, _)| *name).collect()
    }

    /// A model of the zoo. (One in a file: [`crate::formats::load_model`].)
    ///
    /// # Errors
    /// When there is no such model; the message lists the zoo.
    pub fn find(name: &str) -> Result<Model> {
        match ZOO.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Model::parse(text, name),
            None => {
                let zoo = Model::zoo().join(", ");
                Err(Error::input(format!("there is no model {name:?}: use one of {zoo}, or a .toml file")))
            }
        }
    }

    /// Reads a model from TOML. `origin` is what messages call the text: its file, or the checkpoint that holds it.
    ///
    /// # Errors
    /// When the text is not a model; the message names the layer, or the line, and what was expected.
    pub fn parse(text: &str, origin: &str) -> Result<Model> {
        let wrong = |message: String| Error::input(format!("{origin}: {message}"));
        let model: Model = toml::from_str(text).map_err(|e| wrong(toml_message(text, &e)))?;
        if model.layers.is_empty() {
            return Err(wrong(
                "a model needs layers: layers = [{ name = \"conv1\", kind = \"conv2d\", .. }, ..]".into(),
            ));
        }
        if model.input[0] != 3 || model.input.contains(&0) {
            return Err(wrong(format!(
                "input = {:?}: expected [3, height, width], the pictures being RGB",
                model.input
            )));
        }
        if model.name.trim().is_empty()
            || [&model.name, &model.about].into_iter().any(|text| text.contains(char::is_control))
        {
            return Err(wrong("name and about: expected text on one line, for the name at least a letter".into()));
        }
        for (n, layer) in model.layers.iter().enumerate() {
            layer.check(&model).map_err(|message| wrong(format!("layer {}: {message}", one_line(&layer.name))))?;
            if model.layers[..n].iter().any(|other| other.name == layer.name) {
                return Err(wrong(format!("two layers are called {:?}: give each its own name", layer.name)));
            }
        }
        Ok(model)
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

    fn message(text: &str) -> String {
        Model::parse(text, "my.toml").unwrap_err().to_string()
    }

    #[test]
    fn the_zoo_reads_and_writes_back() {
        for name in Model::zoo() {
            let model = Model::find(name).unwrap();
            assert_eq!(model.name, name);
            assert_eq!(Model::parse(&model.to_toml().unwrap(), "copy").unwrap(), model);
            train_graph(&model, &BuildOptions::new(2, 3), &OptimizerConfig::adam(0.0), 0.0).unwrap();
        }
    }

    #[test]
    fn errors_name_the_file_and_the_layer() {
        let head = "name = \"m\"\ninput = [3, 8, 8]\n";
        for (text, expected) in [
            ("", "missing field"),
            ("name = \n", "line 1"),
            (&format!("{head}layer = []"), "unknown field `layer`"),
            (&format!("{head}layers = []"), "needs layers"),
            (&format!("{head}layers = [{{ kind = \"relu\" }}]"), "has no name"),
            (&format!("{head}layers = [{{ name = \"c\", kind = \"conv3d\" }}]"), "layer c: unknown variant `conv3d`"),
            (
                &format!("{head}layers = [{{ name = \"c\", kind = \"conv2d\", out = 3 }}]"),
                "layer c: missing field `kernel`",
            ),
            (
                &format!("{head}layers = [{{ name = \"r\", kind = \"relu\", rate = 3 }}]"),
                "layer r: unknown field `rate`",
            ),
            (
                &format!("{head}layers = [{{ name = \"p\", kind = \"max_pool2d\", kernel = -1 }}]"),
                "layer p: expected a whole number up to 65535, or [height, width]",
            ),
            (&format!("{head}layers = [{{ name = \"f\", kind = \"linear\", out = \"two\" }}]"), "or \"classes\""),
            (
                &format!("{head}activation = \"gelu\"\nlayers = [{{ name = \"r\", kind = \"relu\" }}]"),
                "expected \"relu\"",
            ),
            (&format!("{head}layers = [{{ name = \"../r\", kind = \"relu\" }}]"), "layer ../r: a layer's name"),
            (&format!("{head}layers = [{{ name = \"n\", kind = \"lrn\", alpha = nan }}]"), "layer n: alpha = NaN"),
            (&format!("{head}layers = [{{ name = \"n\", kind = \"lrn\", k = 0.0 }}]"), "layer n: k = 0"),
            (
                &format!("{head}layers = [{{ name = \"f\", kind = \"linear\", out = 2, bias = nan }}]"),
                "layer f: bias = NaN",
            ),
            (
                &format!("{head}init = {{ normal = -0.1 }}\nlayers = [{{ name = \"f\", kind = \"linear\", out = 2 }}]"),
                "layer f: normal = -0.1",
            ),
            ("name = \"\"\ninput = [3, 8, 8]\nlayers = [{ name = \"r\", kind = \"relu\" }]", "name and about"),
            (
                "name = \"m\"\ninput = [1, 8, 8]\nlayers = [{ name = \"r\", kind = \"relu\" }]",
                "expected [3, height, width]",
            ),
            (
                &format!("{head}layers = [{{ name = \"r\", kind = \"relu\" }}, {{ name = \"r\", kind = \"tanh\" }}]"),
                "two layers",
            ),
        ] {
            let message = message(text);
            assert!(message.starts_with("my.toml: ") && message.contains(expected), "{text}\n{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn unknown_models_list_the_zoo() {
        let unknown = Model::find("vgg").unwrap_err().to_string();
        assert!(unknown.contains("alexnet, alexnet-tutorial, four-layer"), "{unknown}");
    }
}
