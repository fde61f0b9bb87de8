//! Weights of another program, such as a PyTorch state dict, as a checkpoint: what they do not say of themselves the caller says.

use std::path::Path;

use super::pretrained::some;
use super::{Checkpoint, safetensors};
use crate::data::Resize;
use crate::error::{Error, Result};
use crate::models::{MEAN_IMAGE, Model, eval_graph, with_margin};
use crate::ops::DropoutScaling;

/// What a state dict does not say of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct StateDict {
    /// The network, whose parameters' names and shapes the tensors have.
    pub model: Model,
    /// Names of the classes, in the logits' order; their numbers when `None`.
    pub classes: Option<Vec<String>>,
    /// Height and width that the network sees; the model's own when `None`.
    pub image_size: Option<usize>,
    /// Height and width to which pictures are resized, of which the network sees the centre; when `None` 256 for 224, as torchvision has it.
    pub stored_size: Option<usize>,
    /// How they are resized.
    pub resize: Resize,
    /// Per channel, of pixels in [0, 1], subtracted.
    pub mean: [f32; 3],
    /// Per channel, of pixels in [0, 1], divided by.
    pub std: [f32; 3],
}

impl Checkpoint {
    /// Reads a safetensors file of another program. Numbers of 16 or 64 bits become f32; those that are whole are left out.
    ///
    /// # Errors
    /// When the file cannot be read, is a checkpoint already, or its tensors are not the model's: one line that says which.
    pub fn from_state_dict(path: &Path, about: StateDict) -> Result<Checkpoint> {
        let wrong = |message: String| Error::input(format!("{}: {message}", path.display()));
        let safetensors::Contents { tensors, metadata } = safetensors::load_floats(path)?;
        if metadata.contains_key("convoy") {
            return Err(wrong("a checkpoint of convoy, which says itself what it is: leave out --model".into()));
        }
        let StateDict { model, classes, image_size, stored_size, resize, mean, std } = about;
        let told = tensors.iter().map(|(name, tensor)| format!("{name} {}", tensor.shape())).collect::<Vec<_>>();
        let holds = if told.is_empty() { "no floating-point tensors".into() } else { some(told) };
        // Without names the classes are as many as the last weights have rows.
        let classes = match (classes, model.layers.iter().rfind(|layer| layer.kind.has_weight())) {
            (Some(classes), _) => classes,
            (None, Some(layer)) => {
                let last = tensors.get(&format!("{}.weight", layer.name));
                let rows = last.and_then(|weight| weight.shape().first().copied()).unwrap_or(1);
                (0..rows).map(|class| class.to_string()).collect()
            }
            (None, None) => Vec::new(),
        };
        let advice = format!(
            "; the file holds {holds}. Choose the --model and --image-size that it is of, and name its classes (here {}) by --classes",
            classes.len()
        );
        let seen = image_size.map_or([model.input[1], model.input[2]], |side| [side; 2]);
        let checkpoint = Checkpoint {
            model,
            classes,
            image_size,
            stored_size: stored_size.map_or(seen.map(with_margin), |side| [side; 2]),
            resize,
            mean,
            mean_image: tensors.contains_key(MEAN_IMAGE),
            std,
            dropout: None,
            dropout_scaling: DropoutScaling::Inverted,
            epoch: 0,
            top1: None,
            extra: Default::default(),
            tensors,
        };
        checkpoint.check_tensors().map_err(|message| wrong(message + &advice))?;
        Ok(checkpoint)
    }

    /// The same without all that a network does not need to run: the optimizer's state, the position of a run.
    ///
    /// # Errors
    /// None of a checkpoint that was read.
    pub fn without_state(mut self) -> Result<Checkpoint> {
        self.extra.clear();
        let network = eval_graph(&self.model, &self.build_options(1))?;
        self.tensors.retain(|name, _| network.parameters.iter().any(|parameter| parameter.name == *name));
        Ok(self)
    }
}
