//! What comes before the first layer: pictures, augmented, normalised and mixed.

use super::build::{Phase, check_size};
use super::{BuildOptions, Model};
use crate::error::Result;
use crate::graph::{Graph, Role, ValueId};
use crate::ops::mix::PLAN;
use crate::ops::{Augment, Color, Crop, Mix};
use crate::tensor::{DType, TensorType};

/// Name of the tensor of the training pictures' mean at each place, f32 [3, H, W] of pixels in [0, 1].
pub const MEAN_IMAGE: &str = "mean_image";

/// What comes before the first layer.
pub(super) struct Seen {
    pub pictures: ValueId,
    pub counter: ValueId,
    /// How pictures are mixed, if they are.
    pub mixing: Option<ValueId>,
    /// State [`MEAN_IMAGE`], f32 [3, H, W], if there is one.
    pub mean_image: Option<ValueId>,
    /// f32 [N, 3, h, w].
    pub x: ValueId,
}

impl Model {
    /// Appends what comes before the first layer: pictures, augmented and normalised.
    ///
    /// # Errors
    /// [`Error::Input`] when an option is out of range.
    pub(super) fn see(&self, graph: &mut Graph, options: &BuildOptions, phase: Phase) -> Result<Seen> {
        options.validate(self)?;
        let [height, width] = options.stored(self);
        let pictures = TensorType::new([options.batch, height, width, 3], DType::U8);
        check_size("pictures", &pictures.shape)?;
        let pictures = graph.source("pictures", pictures, Role::Input)?;
        let counter = graph.source("counter", TensorType::new([4], DType::U32), Role::Input)?;
        let training = phase == Phase::Training;
        let augment = Augment {
            output: options.network_size(self),
            first_picture: 0,
            crop: if training { options.crop } else { Crop::Center },
            flip: training && options.flip,
            mean: options.mean,
            mean_image: options.mean_image,
            std: options.std,
            color: if training { options.color } else { Color::NONE },
            erase: if training { options.erase } else { 0.0 },
        };
        let mean_image = match options.mean_image {
            true => Some(graph.source(MEAN_IMAGE, TensorType::f32([3, height, width]), Role::State)?),
            false => None,
        };
        let inputs: Vec<ValueId> = [pictures, counter].into_iter().chain(mean_image).collect();
        let mut x = graph.apply("augment", augment, &inputs)?;
        let mut mixing = None;
        if training && options.mixed {
            let plan = graph.source("mixing", TensorType::f32([options.batch, PLAN]), Role::Input)?;
            x = graph.apply("mix", Mix, &[x, plan])?;
            mixing = Some(plan);
        }
        Ok(Seen { pictures, counter, mixing, mean_image, x })
    }
}
