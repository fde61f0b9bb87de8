//! What a run is about: settings applied to a model and pictures, in the terms of the modules that do the work.

use super::balance::{self, Balance};
use super::config::{Augmentation, DropoutForm, InitKind, OptimizerKind, Settings};
use crate::data::{Dataset, LoaderOptions};
use crate::error::Result;
use crate::formats::{Checkpoint, Pretrained};
use crate::graph::fuse::Rewrites;
use crate::models::{self, BuildOptions, Init, Model, OptimizerConfig, Rule, TrainGraph, with_margin};
use crate::ops::{Color, Crop, DropoutScaling};

/// A model, pictures, and how to train the one on the others.
#[derive(Clone, Debug)]
pub struct Job {
    /// The settings in force.
    pub settings: Settings,
    /// The network.
    pub model: Model,
    /// The pictures.
    pub dataset: Dataset,
    /// What weights a new run begins with, where it is not their first values.
    pub pretrained: Option<Pretrained>,
    /// Principal components of the training pictures' colours, as long as their eigenvalues, in columns: what
    /// [`Settings::pca_jitter`] multiplies. [`train`](super::train) finds them if they are wanted.
    pub components: [[f64; 3]; 3],
}

impl Job {
    /// A job that begins with the model's own first values.
    pub fn new(settings: Settings, model: Model, dataset: Dataset) -> Job {
        Job { settings, model, dataset, pretrained: None, components: [[0.0; 3]; 3] }
    }

    /// Steps of an epoch; the last may hold fewer pictures.
    pub fn steps_per_epoch(&self) -> u64 {
        self.dataset.train.len().div_ceil(self.batch()) as u64
    }

    /// Pictures of a step: no more than there are.
    pub fn batch(&self) -> usize {
        self.settings.batch_size.min(self.dataset.train.len())
    }

    /// The training pictures of an epoch, counted from 0, in their order.
    pub fn order(&self, epoch: u32) -> Vec<usize> {
        let Dataset { train, classes, .. } = &self.dataset;
        balance::order(train, classes.len(), self.settings.balance, self.settings.seed, epoch)
    }

    /// Height and width of the network's input and of the pictures as they are decoded: where crops are taken there is a margin, 256 to 224.
    fn sizes(&self) -> ([usize; 2], [usize; 2]) {
        let [_, height, width] = self.model.input;
        let seen = self.settings.image_size.map_or([height, width], |side| [side; 2]);
        let stored = match self.settings.augment {
            Augmentation::Off | Augmentation::Flip => seen,
            Augmentation::Crop | Augmentation::Resized => seen.map(with_margin),
        };
        (seen, stored)
    }

    /// How the graphs of `batch` pictures are built.
    pub fn build_options(&self, batch: usize) -> BuildOptions {
        let settings = &self.settings;
        BuildOptions {
            batch,
            classes: self.dataset.classes.len(),
            image_size: settings.image_size,
            stored_size: Some(self.sizes().1),
            crop: match settings.augment {
                Augmentation::Off | Augmentation::Flip => Crop::Center,
                Augmentation::Crop => Crop::Random,
                Augmentation::Resized => Crop::Resized { min_area: settings.min_area as f32 },
            },
            flip: settings.augment != Augmentation::Off,
            color: Color {
                brightness: settings.color_jitter as f32,
                contrast: settings.color_jitter as f32,
                saturation: settings.color_jitter as f32,
                pca: self.components.map(|row| row.map(|v| (v * settings.pca_jitter) as f32)),
            },
            erase: settings.erase as f32,
            mixed: settings.mixup > 0.0 || settings.cutmix > 0.0,
            weighted: settings.balance == Balance::Loss,
            mean: settings.mean.map(|v| v as f32),
            mean_image: settings.mean_image,
            std: settings.std.map(|v| v as f32),
            dropout: settings.dropout.map(|v| v as f32),
            dropout_scaling: match settings.dropout_form {
                DropoutForm::Inverted => DropoutScaling::Inverted,
                DropoutForm::Paper => DropoutScaling::Paper,
            },
            init: match settings.init {
                InitKind::Model => None,
                InitKind::He => Some(Init::He),
                InitKind::Pytorch => Some(Init::PyTorch),
            },
            fold: false,
            rewrites: Rewrites::default(),
        }
    }

    /// The training step.
    ///
    /// # Errors
    /// When the model cannot take pictures of this size, or a setting is out of its range.
    pub fn train_graph(&self) -> Result<TrainGraph> {
        let options = self.build_options(self.batch());
        models::train_graph(&self.model, &options, &self.optimizer(), self.settings.label_smoothing as f32)
    }

    /// How pictures are decoded into batches.
    pub fn loader_options(&self, batch: usize) -> LoaderOptions {
        let processors = || std::thread::available_parallelism().map_or(1, |n| n.get());
        LoaderOptions {
            batch,
            size: self.sizes().1,
            resize: self.settings.resize.into(),
            workers: self.settings.workers.unwrap_or_else(processors),
        }
    }

    /// The optimizer's constants.
    pub fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig::from(&self.settings)
    }

    /// A checkpoint of this run, without tensors.
    pub fn checkpoint(&self, epoch: usize, top1: Option<f64>) -> Checkpoint {
        let options = self.build_options(1);
        Checkpoint {
            model: self.model.clone(),
            classes: self.dataset.classes.clone(),
            image_size: options.image_size,
            stored_size: self.sizes().1,
            resize: self.settings.resize.into(),
            mean: options.mean,
            mean_image: options.mean_image,
            std: options.std,
            dropout: options.dropout,
            dropout_scaling: options.dropout_scaling,
            epoch: epoch as u64,
            top1,
            extra: Default::default(),
            tensors: Default::default(),
        }
    }
}

impl From<&Settings> for OptimizerConfig {
    fn from(settings: &Settings) -> Self {
        let adam = |decoupled| Rule::Adam {
            beta1: settings.beta1 as f32,
            beta2: settings.beta2 as f32,
            epsilon: settings.epsilon as f32,
            decoupled,
        };
        OptimizerConfig {
            rule: match settings.optimizer {
                OptimizerKind::Sgd => Rule::Sgd {
                    momentum: settings.momentum as f32,
                    nesterov: settings.nesterov,
                    paper: settings.paper_sgd,
                },
                OptimizerKind::Adam => adam(false),
                OptimizerKind::Adamw => adam(true),
            },
            weight_decay: settings.weight_decay as f32,
            decay_biases: settings.decay_biases,
            bias_lr_scale: settings.bias_lr_scale as f32,
        }
    }
}
