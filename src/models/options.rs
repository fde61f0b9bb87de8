//! What a model file leaves open: sizes, augmentation, normalisation, first values.

use super::{Init, Model};
use crate::error::{Error, Result};
use crate::graph::fuse::Rewrites;
use crate::ops::{Color, Crop, DropoutScaling};

/// What a model file leaves open.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildOptions {
    /// Pictures in a step.
    pub batch: usize,
    /// Classes to tell apart.
    pub classes: usize,
    /// Height and width that the network sees; the model's own when `None`.
    pub image_size: Option<usize>,
    /// Height and width of the u8 pictures, at least what the network sees; the same when `None`.
    pub stored_size: Option<[usize; 2]>,
    /// Which part of a picture training sees (evaluation: the centre).
    pub crop: Crop,
    /// Whether training mirrors half of the pictures.
    pub flip: bool,
    /// What training does to the colours.
    pub color: Color,
    /// Probability with which training erases a part of a picture.
    pub erase: f32,
    /// Whether training mixes pictures, by an input that says how.
    pub mixed: bool,
    /// Whether the loss has an input of weights, one a picture; always, if pictures are mixed.
    pub weighted: bool,
    /// Per channel, of pixels in [0, 1], subtracted.
    pub mean: [f32; 3],
    /// Whether each place of a stored picture has a mean of its own instead: the statistic [`super::MEAN_IMAGE`].
    pub mean_image: bool,
    /// Per channel, of pixels in [0, 1], divided by.
    pub std: [f32; 3],
    /// Replaces the rate of every dropout layer.
    pub dropout: Option<f32>,
    /// Where dropout is made up for.
    pub dropout_scaling: DropoutScaling,
    /// Replaces the first weights of every layer, and its biases by 0 or what goes with these weights.
    pub init: Option<Init>,
    /// Whether evaluation folds batch normalisation into the convolution or linear layer before it, see [`super::Fold`].
    pub fold: bool,
    /// What is rewritten for speed.
    pub rewrites: Rewrites,
}

/// Height or width to which pictures are resized of which a network sees `side`: 256 for 224, as the 2012 paper and torchvision have it.
pub fn with_margin(side: usize) -> usize {
    side.saturating_mul(256).div_ceil(224)
}

impl BuildOptions {
    /// The model's own size, no augmentation, pixels to [-1, 1], the model's dropout and first weights.
    pub fn new(batch: usize, classes: usize) -> Self {
        BuildOptions {
            batch,
            classes,
            image_size: None,
            stored_size: None,
            crop: Crop::Center,
            flip: false,
            color: Color::NONE,
            erase: 0.0,
            mixed: false,
            weighted: false,
            mean: [0.5; 3],
            mean_image: false,
            std: [0.5; 3],
            dropout: None,
            dropout_scaling: DropoutScaling::Inverted,
            init: None,
            fold: false,
            rewrites: Rewrites::default(),
        }
    }

    /// Height and width that `model` sees with these options.
    pub fn network_size(&self, model: &Model) -> [usize; 2] {
        self.image_size.map_or([model.input[1], model.input[2]], |side| [side; 2])
    }

    pub(super) fn validate(&self, model: &Model) -> Result<()> {
        if self.batch == 0 || self.classes == 0 {
            let (batch, classes) = (self.batch, self.classes);
            let message = format!("a batch of {batch} and {classes} classes: expected 1 or more of each");
            return Err(Error::input(message));
        }
        if self.image_size == Some(0) {
            return Err(Error::input("an image size of 0: expected 1 or more, or none for the model's own"));
        }
        if let Some(rate) = self.dropout.filter(|rate| !(0.0..1.0).contains(rate)) {
            return Err(Error::input(format!("dropout {rate}: expected a rate in [0, 1)")));
        }
        if self.mean.iter().any(|m| !m.is_finite()) || self.std.iter().any(|s| !s.is_finite() || *s <= 0.0) {
            return Err(Error::input("the normalisation's mean must be finite, its std above 0"));
        }
        let ([h, w], [stored_h, stored_w]) = (self.network_size(model), self.stored(model));
        if stored_h < h || stored_w < w {
            let message = format!("pictures are stored as {stored_h}x{stored_w}, but the network sees {h}x{w} of them");
            return Err(Error::input(message));
        }
        Ok(())
    }

    pub(super) fn stored(&self, model: &Model) -> [usize; 2] {
        self.stored_size.unwrap_or(self.network_size(model))
    }
}
