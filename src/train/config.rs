//! The settings of a run: a preset, overridden by a configuration file, overridden by options. All three are tables with the
//! same names, so that merging needs no list of fields, and a run's `config.toml` is the merged table.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::preset::Preset;
use crate::data::Resize;
use crate::error::{Error, Result, one_line};

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

/// When dropout makes up for what it drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DropoutForm {
    /// In training: kept values are divided by the keep rate
    Inverted,
    /// In evaluation: values are multiplied by the keep rate
    Paper,
}

/// Every setting of a run; the fields are the options of `convoy train` and the keys of `config.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The preset the others override.
    pub preset: Preset,
    /// Folder of training pictures.
    #[serde(default)]
    pub dir: PathBuf,
    /// Folder of validation pictures; without it the split decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val: Option<PathBuf>,
    /// Share of the pictures to train on, in (0, 1).
    pub split: f64,
    /// Zoo name or model file.
    pub model: String,
    /// Height and width of the network's input, pixels; the model's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// Rate of all dropout layers, in [0, 1); the model's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Where dropout is made up for.
    pub dropout_form: DropoutForm,
    /// How weights start.
    pub init: InitKind,
    /// Passes over the training pictures, and the length of the schedule.
    pub epochs: usize,
    /// Steps after which to stop, if before the epochs are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Pictures a step.
    pub batch_size: usize,
    /// Epochs without a better validation top-1 after which to stop; 0 never.
    pub patience: usize,
    /// Optimizer.
    pub optimizer: OptimizerKind,
    /// Learning rate.
    pub lr: f64,
    /// SGD's momentum, in [0, 1).
    pub momentum: f64,
    /// Nesterov's momentum (SGD).
    pub nesterov: bool,
    /// SGD in the paper's form, whose velocity holds the learning rate.
    pub paper_sgd: bool,
    /// Adam's decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Adam's decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of Adam's second moment.
    pub epsilon: f64,
    /// L2 coefficient; AdamW's decay.
    pub weight_decay: f64,
    /// Whether biases decay too.
    pub decay_biases: bool,
    /// Factor of the biases' learning rate.
    pub bias_lr_scale: f64,
    /// Share of the target spread over all classes, in [0, 1).
    pub label_smoothing: f64,
    /// Schedule of the learning rate.
    pub schedule: ScheduleKind,
    /// Epochs (fractions too) of linear warm-up.
    pub warmup_epochs: f64,
    /// Epochs between two drops of the `step` schedule.
    pub step_epochs: f64,
    /// Factor of a drop (`step`, `plateau`), in (0, 1).
    pub lr_factor: f64,
    /// Epochs without a better validation error before a drop (`plateau`).
    pub lr_patience: usize,
    /// Smallest learning rate of `cosine` and `plateau`.
    pub min_lr: f64,
    /// Augmentation of training pictures.
    pub augment: Augmentation,
    /// Smallest part of a picture's area that `resized` takes, in (0, 1].
    pub min_area: f64,
    /// How pictures are brought to a square.
    pub resize: ResizeKind,
    /// Per channel (RGB, pixels in 0..1): subtracted.
    pub mean: [f64; 3],
    /// Per channel: divided by.
    pub std: [f64; 3],
    /// Seed of everything random.
    pub seed: u64,
    /// Threads that decode pictures; one per processor if absent. Results do not depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// Device, as given to `--adapter`.
    #[serde(default = "auto")]
    pub adapter: String,
}

fn auto() -> String {
    "auto".into()
}

/// The name of the table in `config.toml` that says where a run was made: for people, not read back.
pub const MADE_BY: &str = "made_by";

impl Settings {
    /// Merges tables, later ones over earlier ones, upon the preset that the last of them names (else the default one).
    ///
    /// # Errors
    /// [`Error::Input`] for an unknown key or a value of the wrong type.
    pub fn merge(layers: impl IntoIterator<Item = toml::Table>) -> Result<Settings> {
        let mut chosen = toml::Table::new();
        for layer in layers {
            chosen.extend(layer);
        }
        let preset = match chosen.get("preset") {
            Some(name) => name.clone().try_into().map_err(|e| Error::input(format!("preset: {}", one_line(&e))))?,
            None => Preset::default(),
        };
        let mut merged = preset.table();
        merged.extend(chosen);
        merged.try_into().map_err(|e| Error::input(format!("settings: {}", one_line(&e))))
    }

    /// Reads a configuration file (complete or partial) as a layer for [`Settings::merge`].
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, or holds what is no setting.
    pub fn read_table(path: &Path) -> Result<toml::Table> {
        let text = std::fs::read_to_string(path).map_err(Error::io("cannot read the configuration", path))?;
        let wrong = |message: String| Error::input(format!("{}: {message}", path.display()));
        let mut table: toml::Table = text.parse().map_err(|e| wrong(one_line(&e)))?;
        table.remove(MADE_BY);
        Settings::merge([table.clone()]).map_err(|e| wrong(e.to_string()))?;
        Ok(table)
    }

    /// The settings as a table: the text of `config.toml` without `made_by`.
    pub fn table(&self) -> Result<toml::Table> {
        toml::Table::try_from(self).map_err(|e| Error::input(format!("settings: {e}")))
    }

    /// Whether every number is in its range.
    ///
    /// # Errors
    /// [`Error::Input`] that names the option, its range and what came.
    pub fn check(&self) -> Result<()> {
        let number = |name: &str, value: f64, ok: bool, range: &str| match ok && (value as f32).is_finite() {
            true => Ok(()),
            false => Err(Error::input(format!("--{name} must be {range}, got {value}"))),
        };
        let half_open =
            |name: &str, value: f64| number(name, value, (0.0..1.0).contains(&value), "at least 0 and below 1");
        number("split", self.split, self.split > 0.0 && self.split < 1.0, "between 0 and 1 (the share to train on)")?;
        number("epochs", self.epochs as f64, self.epochs > 0, "at least 1")?;
        number("max-steps", self.max_steps.unwrap_or(1) as f64, self.max_steps != Some(0), "at least 1")?;
        number("batch-size", self.batch_size as f64, (1..=65_536).contains(&self.batch_size), "1 to 65536")?;
        if let Some(size) = self.image_size {
            number("image-size", size as f64, (1..=4096).contains(&size), "1 to 4096")?;
        }
        if let Some(workers) = self.workers {
            number("workers", workers as f64, (1..=1024).contains(&workers), "1 to 1024")?;
        }
        if let Some(dropout) = self.dropout {
            half_open("dropout", dropout)?;
        }
        number("lr", self.lr, self.lr > 0.0, "above 0 (and within f32)")?;
        half_open("momentum", self.momentum)?;
        half_open("beta1", self.beta1)?;
        half_open("beta2", self.beta2)?;
        number("epsilon", self.epsilon, self.epsilon > 0.0, "above 0")?;
        number("weight-decay", self.weight_decay, self.weight_decay >= 0.0, "at least 0")?;
        number("bias-lr-scale", self.bias_lr_scale, self.bias_lr_scale >= 0.0, "at least 0")?;
        half_open("label-smoothing", self.label_smoothing)?;
        number("warmup-epochs", self.warmup_epochs, self.warmup_epochs >= 0.0, "at least 0")?;
        number("step-epochs", self.step_epochs, self.step_epochs > 0.0, "above 0")?;
        number("lr-factor", self.lr_factor, self.lr_factor > 0.0 && self.lr_factor < 1.0, "between 0 and 1")?;
        number("min-lr", self.min_lr, (0.0..=self.lr).contains(&self.min_lr), "0 to --lr")?;
        number("min-area", self.min_area, self.min_area > 0.0 && self.min_area <= 1.0, "above 0 and at most 1")?;
        for (mean, std) in self.mean.into_iter().zip(self.std) {
            number("mean", mean, true, "a finite number")?;
            number("std", std, std > 0.0, "above 0")?;
        }
        if self.nesterov && self.paper_sgd {
            return Err(Error::input("--nesterov and --paper-sgd exclude each other: set one to false"));
        }
        Ok(())
    }

    /// The first key whose value here differs from `other`'s, apart from those named in `free`.
    pub fn first_difference(&self, other: &Settings, free: &[&str]) -> Result<Option<String>> {
        let (a, b) = (self.table()?, other.table()?);
        let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
        keys.sort();
        Ok(keys.into_iter().find(|k| !free.contains(&k.as_str()) && a.get(*k) != b.get(*k)).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    #[test]
    fn options_override_the_file_which_overrides_the_preset() {
        let file = table("preset = 'paper'\nlr = 0.5\nepochs = 7");
        let options = table("lr = 0.25");
        let settings = Settings::merge([file, options]).unwrap();
        assert_eq!((settings.preset, settings.lr, settings.epochs, settings.batch_size), (Preset::Paper, 0.25, 7, 128));
    }

    #[test]
    fn config_round_trips() {
        let mut settings = Settings::merge([table("dir = 'pictures'\nlr = 0.1\nmax_steps = 5")]).unwrap();
        settings.beta2 = 0.1 + 0.2;
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(Settings::merge([table(&text)]).unwrap(), settings);
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_named() {
        let unknown = Settings::merge([table("learning_rate = 1")]).unwrap_err().to_string();
        assert!(unknown.contains("learning_rate") && !unknown.contains('\n'), "{unknown}");
        assert!(Settings::merge([table("epochs = 'many'")]).is_err());
        assert!(Settings::merge([table("preset = 'best'")]).is_err());
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let bad = [
            "lr = nan",
            "lr = -1.0",
            "lr = inf",
            "lr = 1e40",
            "batch_size = 0",
            "split = 1.5",
            "split = 0.0",
            "epochs = 0",
            "dropout = 1.0",
            "label_smoothing = 1.0",
            "std = [1.0, 0.0, 1.0]",
            "min_area = 0.0",
            "workers = 0",
            "max_steps = 0",
            "image_size = 0",
            "weight_decay = -0.1",
            "min_lr = 1.0",
            "momentum = 1.0",
        ];
        for text in bad {
            let settings = Settings::merge([table(text)]).unwrap();
            assert!(settings.check().is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn differences_are_found() {
        let a = Settings::merge([table("lr = 0.1")]).unwrap();
        let b = Settings::merge([table("lr = 0.2\nepochs = 3")]).unwrap();
        assert_eq!(a.first_difference(&b, &["epochs"]).unwrap().as_deref(), Some("lr"));
        assert_eq!(a.first_difference(&b, &["epochs", "lr"]).unwrap(), None);
    }
}
