//! Checkpoints: the weights of a network and all that is needed to use them, in one safetensors file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::safetensors;
use crate::data::Resize;
use crate::error::{Error, Result};
use crate::models::{BuildOptions, Model, eval_graph};
use crate::ops::DropoutScaling;
use crate::tensor::{Tensor, TensorType};

/// A trained network: what it is, how pictures reach it, its weights.
///
/// In the file's metadata: `convoy` (version), `model` (name), `model_toml`, `classes`, `input_size`, `stored_size`, `resize`,
/// `normalisation`, `dropout`, `epoch`, `top1`; lists and numbers as JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The network.
    pub model: Model,
    /// Names of the classes, in the logits' order.
    pub classes: Vec<String>,
    /// Height and width that the network sees; the model's own when `None`.
    pub image_size: Option<usize>,
    /// Height and width to which pictures are resized; the network sees the centre.
    pub stored_size: [usize; 2],
    /// How they are resized.
    pub resize: Resize,
    /// Per channel, of pixels in [0, 1], subtracted.
    pub mean: [f32; 3],
    /// Whether the tensor [`MEAN_IMAGE`](crate::models::MEAN_IMAGE) is subtracted instead.
    pub mean_image: bool,
    /// Per channel, of pixels in [0, 1], divided by.
    pub std: [f32; 3],
    /// Rate of every dropout layer, when it is not the model's own.
    pub dropout: Option<f32>,
    /// Where dropout is made up for.
    pub dropout_scaling: DropoutScaling,
    /// Epochs trained.
    pub epoch: u64,
    /// Validation accuracy in [0, 1], where it was measured.
    pub top1: Option<f64>,
    /// Further metadata: the position of a run.
    pub extra: BTreeMap<String, String>,
    /// Parameters (`conv1.weight`), and optimizer state (`conv1.weight.velocity`) in a checkpoint to resume from.
    pub tensors: BTreeMap<String, Tensor>,
}

/// `dropout` in the metadata.
#[derive(serde::Serialize, serde::Deserialize)]
struct DropoutNote {
    rate: Option<f32>,
    scaling: String,
}

/// `normalisation` in the metadata.
#[derive(serde::Serialize, serde::Deserialize)]
struct Normalisation {
    mean: [f32; 3],
    std: [f32; 3],
    #[serde(default)]
    mean_image: bool,
}

impl Checkpoint {
    /// How to build a graph that runs these weights on `batch` pictures.
    pub fn build_options(&self, batch: usize) -> BuildOptions {
        BuildOptions {
            image_size: self.image_size,
            stored_size: Some(self.stored_size),
            mean: self.mean,
            mean_image: self.mean_image,
            std: self.std,
            dropout: self.dropout,
            dropout_scaling: self.dropout_scaling,
            ..BuildOptions::new(batch, self.classes.len())
        }
    }

    /// Writes the checkpoint, whole or not at all; the bytes depend on its content only.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        safetensors::save(path, &self.tensors, &self.metadata()?)
    }

    /// The same with tensors of `types` that are asked for one after the other, by name, in place of its own: they need not be in memory
    /// together.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written, and what `tensor` says, which leaves a file that was there as it was.
    pub fn save_each(
        &self,
        path: &Path,
        types: &BTreeMap<String, TensorType>,
        tensor: impl FnMut(&str) -> Result<Tensor>,
    ) -> Result<()> {
        safetensors::save_each(path, types, &self.metadata()?, tensor)
    }

    pub(super) fn metadata(&self) -> Result<BTreeMap<String, String>> {
        let [height, width] = self.build_options(1).network_size(&self.model);
        let scaling = match self.dropout_scaling {
            DropoutScaling::Inverted => "inverted",
            DropoutScaling::Paper => "paper",
        };
        let normalisation = Normalisation { mean: self.mean, std: self.std, mean_image: self.mean_image };
        let own = [
            ("convoy", env!("CARGO_PKG_VERSION").to_string()),
            ("model", self.model.name.clone()),
            ("model_toml", self.model.to_toml()?),
            ("classes", json(&self.classes)?),
            ("input_size", json(&[self.model.input[0], height, width])?),
            ("stored_size", json(&self.stored_size)?),
            ("resize", json(&self.resize)?),
            ("normalisation", json(&normalisation)?),
            ("dropout", json(&DropoutNote { rate: self.dropout, scaling: scaling.into() })?),
            ("epoch", self.epoch.to_string()),
            ("top1", json(&self.top1)?),
        ];
        let mut metadata = self.extra.clone();
        metadata.extend(own.map(|(key, value)| (key.to_string(), value)));
        Ok(metadata)
    }

    /// Reads a checkpoint and checks its tensors against its model.
    ///
    /// # Errors
    /// When the file cannot be read, is corrupt, holds another program's weights, or lacks a tensor: one line that says which.
    pub fn load(path: &Path) -> Result<Checkpoint> {
        let contents = safetensors::load(path)?;
        Self::from_contents(contents).map_err(|message| Error::input(format!("{}: {message}", path.display())))
    }

    fn from_contents(contents: safetensors::Contents) -> Result<Checkpoint, String> {
        let safetensors::Contents { tensors, mut metadata } = contents;
        if metadata.remove("convoy").is_none() {
            return Err("the weights of another program (no `convoy` in its metadata); \
                        give a checkpoint of `convoy train`, such as runs/NAME/best.safetensors, or make one of it: \
                        convoy export FILE OUT.safetensors --model NAME"
                .into());
        }
        let mut take = |key: &str| metadata.remove(key).ok_or_else(|| format!("its metadata has no {key:?}"));
        take("model")?;
        let model = Model::parse(&take("model_toml")?, "its model").map_err(|e| e.to_string())?;
        let classes: Vec<String> = parse("classes", &take("classes")?)?;
        let [_, height, width]: [usize; 3] = parse("input_size", &take("input_size")?)?;
        let image_size = match [model.input[1], model.input[2]] == [height, width] {
            true => None,
            false if height == width => Some(height),
            false => return Err(format!("its input_size is {height}x{width}: expected the model's own, or a square")),
        };
        let dropout: DropoutNote = parse("dropout", &take("dropout")?)?;
        let dropout_scaling = match dropout.scaling.as_str() {
            "inverted" => DropoutScaling::Inverted,
            "paper" => DropoutScaling::Paper,
            other => return Err(format!("its dropout scaling is {other:?}: expected \"inverted\" or \"paper\"")),
        };
        let Normalisation { mean, std, mean_image } = parse("normalisation", &take("normalisation")?)?;
        let checkpoint = Checkpoint {
            model,
            classes,
            image_size,
            stored_size: parse("stored_size", &take("stored_size")?)?,
            resize: parse("resize", &take("resize")?)?,
            mean,
            mean_image,
            std,
            dropout: dropout.rate,
            dropout_scaling,
            epoch: parse("epoch", &take("epoch")?)?,
            top1: parse("top1", &take("top1")?)?,
            extra: metadata,
            tensors,
        };
        checkpoint.check_tensors()?;
        Ok(checkpoint)
    }

    /// Every parameter is there with its shape; nothing else but state of parameters.
    pub(super) fn check_tensors(&self) -> Result<(), String> {
        let network = eval_graph(&self.model, &self.build_options(1)).map_err(|e| e.to_string())?;
        for parameter in &network.parameters {
            let expected = &network.graph[parameter.value].ty;
            match self.tensors.get(&parameter.name).map(Tensor::ty) {
                None => {
                    return Err(format!("{} is missing, which its model {} needs", parameter.name, self.model.name));
                }
                Some(ty) if ty != *expected => {
                    let (got, expected) = ((ty.dtype, ty.shape), (expected.dtype, &expected.shape));
                    return Err(format!("{} is {got:?}, its model needs {expected:?}", parameter.name));
                }
                Some(_) => {}
            }
        }
        for (name, tensor) in &self.tensors {
            if let Some(bad) = tensor.as_f32().unwrap_or_default().iter().find(|value| !value.is_finite()) {
                return Err(format!("{name} holds {bad}: its weights are damaged"));
            }
        }
        let variances = self.tensors.iter().filter(|(name, _)| name.ends_with(".running_var"));
        for (name, tensor) in variances {
            if let Some(bad) = tensor.as_f32().unwrap_or_default().iter().find(|value| **value < 0.0) {
                return Err(format!("{name} holds {bad}, but a variance is 0 or more: its weights are damaged"));
            }
        }
        let known = |name: &str| network.parameters.iter().any(|p| p.name == name);
        let state = |name: &str| name.rsplit_once('.').is_some_and(|(parameter, _)| known(parameter));
        match self.tensors.keys().find(|name| !known(name) && !state(name)) {
            Some(name) => Err(format!("{name} belongs to no layer of its model {}", self.model.name)),
            None => Ok(()),
        }
    }
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::input(format!("a checkpoint's metadata: {e}")))
}

fn parse<T: DeserializeOwned>(key: &str, text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|e| format!("its metadata has {key} = {text:?}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let model = Model::find("four-layer").unwrap();
        let mut checkpoint = Checkpoint {
            model,
            classes: vec!["cat".into(), "dog".into()],
            image_size: Some(24),
            stored_size: [28, 28],
            resize: Resize::Stretch,
            mean: [0.1, 0.2, 0.3],
            mean_image: false,
            std: [0.4, 0.5, 1.0 / 255.0],
            dropout: None,
            dropout_scaling: DropoutScaling::Paper,
            epoch: 3,
            top1: Some(0.1 + 0.2),
            extra: [("step".to_string(), "17".to_string())].into(),
            tensors: BTreeMap::new(),
        };
        let network = eval_graph(&checkpoint.model, &checkpoint.build_options(1)).unwrap();
        for parameter in &network.parameters {
            checkpoint.tensors.insert(parameter.name.clone(), parameter.initial(7).unwrap());
        }
        let bias = checkpoint.tensors["conv1.bias"].clone();
        checkpoint.tensors.insert("conv1.bias.velocity".into(), bias);
        checkpoint
    }

    fn load_changed(change: impl FnOnce(&mut safetensors::Contents)) -> Result<Checkpoint, String> {
        let checkpoint = checkpoint();
        let metadata = checkpoint.metadata().unwrap();
        let mut contents = safetensors::Contents { tensors: checkpoint.tensors, metadata };
        change(&mut contents);
        Checkpoint::from_contents(contents)
    }

    #[test]
    fn comes_back_as_it_went() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        checkpoint().save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap(), checkpoint());
    }

    #[test]
    fn says_what_is_missing_or_foreign() {
        let error = |change: fn(&mut safetensors::Contents)| load_changed(change).unwrap_err();
        assert!(error(|c| c.metadata.clear()).contains("another program"));
        assert!(error(|c| drop(c.metadata.remove("classes"))).contains("no \"classes\""));
        assert!(error(|c| drop(c.metadata.insert("epoch".into(), "-1".into()))).contains("epoch"));
        assert!(error(|c| drop(c.metadata.insert("input_size".into(), "[3,1,1]".into()))).contains("too small"));
        assert!(error(|c| drop(c.tensors.remove("conv2.weight"))).contains("conv2.weight is missing"));
        let small = |c: &mut safetensors::Contents| {
            c.tensors.insert("fc4.bias".into(), Tensor::zeros(&TensorType::f32([5])).unwrap());
        };
        assert!(error(small).contains("fc4.bias is (F32, [5])"));
        let more = |c: &mut safetensors::Contents| {
            c.tensors.insert("head.weight".into(), Tensor::zeros(&TensorType::f32([5])).unwrap());
        };
        assert!(error(more).contains("head.weight belongs to no layer"));
    }
}
