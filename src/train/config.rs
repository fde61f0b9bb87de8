//! The settings of a run: a preset, overridden by a configuration file, overridden by options. All three are tables with the
//! same names, so that merging needs no list of fields, and a run's `config.toml` is the merged table.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::balance::Balance;
pub use super::choices::*;
use super::preset::Preset;
use crate::data::Place;
use crate::error::{Error, Result, one_line, serde_message, toml_message};
use crate::formats::is_model_file;

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
    /// Safetensors file whose weights the run begins with, where names and shapes agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<PathBuf>,
    /// Height and width of the network's input, pixels; the model's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// Takes the place of every activation of the model; its own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<ActivationChoice>,
    /// Rate of all dropout layers, in [0, 1); the model's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Where dropout is made up for.
    pub dropout_form: DropoutForm,
    /// How weights start.
    pub init: InitKind,
    /// Where biases start that the model starts above 0; where it says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias_init: Option<f64>,
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
    /// Epochs without a better validation error before a drop (`plateau`), of those since the network first told classes apart.
    pub lr_patience: usize,
    /// Smallest learning rate of `cosine` and `plateau`.
    pub min_lr: f64,
    /// What makes up for classes of different sizes.
    pub balance: Balance,
    /// Augmentation of training pictures.
    pub augment: Augmentation,
    /// Smallest part of a picture's area that `resized` takes, in (0, 1].
    pub min_area: f64,
    /// How much brightness, contrast and saturation vary, in [0, 1).
    pub color_jitter: f64,
    /// Deviation of the numbers by which the paper's colour jitter multiplies eigenvalues: of the covariance of the training pictures'
    /// colours in [0, 1].
    pub pca_jitter: f64,
    /// Probability with which a part of a picture is erased, in [0, 1].
    pub erase: f64,
    /// Alpha of mixup's Beta distribution, by which a picture is blended with another; 0 for none.
    pub mixup: f64,
    /// Alpha of CutMix's, by which a part of a picture is replaced by another's; 0 for none. With both, one or the other.
    pub cutmix: f64,
    /// How pictures are brought to a square.
    pub resize: ResizeKind,
    /// Per channel (RGB, pixels in 0..1): subtracted.
    pub mean: [f64; 3],
    /// Whether the training pictures' mean at each place is subtracted instead.
    pub mean_image: bool,
    /// Per channel: divided by.
    pub std: [f64; 3],
    /// Seed of everything random.
    pub seed: u64,
    /// Where decoded pictures are kept for later epochs and runs: `auto` in the user's folder of caches, `off` nowhere, else a folder.
    /// Results do not depend on it.
    #[serde(default = "auto")]
    pub cache: String,
    /// Threads that decode pictures; one per processor if absent. Results do not depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// What products multiply.
    #[serde(default)]
    pub precision: PrecisionKind,
    /// What several devices divide among them; `model` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<ParallelKind>,
    /// Device or devices, as given to `--adapter`.
    #[serde(default = "auto")]
    pub adapter: String,
}

/// Lets a preset's own values give way where what was chosen excludes them: to change one option must not need a second.
fn give_way(preset: &mut toml::Table, chosen: &toml::Table) {
    let number = |table: &toml::Table, key: &str| {
        table.get(key).and_then(|value| value.as_float().or(value.as_integer().map(|n| n as f64)))
    };
    let is = |key: &str, wanted: bool| chosen.get(key).and_then(toml::Value::as_bool) == Some(wanted);
    // The same share of another rate: so many drops.
    if let (Some(lr), Some(own), Some(least)) = (number(chosen, "lr"), number(preset, "lr"), number(preset, "min_lr")) {
        preset.insert("min_lr".into(), (least * (lr / own)).into());
    }
    // What a model file says of its first weights is a choice too, and without a word of it they are He's.
    if chosen.get("model").and_then(toml::Value::as_str).is_some_and(is_model_file) {
        preset.insert("init".into(), "model".into());
    }
    if is("paper_sgd", true) || number(chosen, "momentum") == Some(0.0) {
        preset.insert("nesterov".into(), false.into());
    }
    if is("nesterov", true) {
        preset.insert("paper_sgd".into(), false.into());
    }
    if chosen.contains_key("mean") {
        preset.insert("mean_image".into(), false.into());
    }
    if chosen.contains_key("bias_init") {
        preset.insert("init".into(), "model".into());
    }
}

/// Settings that [`give_way`] changes.
const DERIVED: [&str; 5] = ["min_lr", "nesterov", "paper_sgd", "mean_image", "init"];

/// Takes such settings out of a file's table where they would be the same without: a run's `config.toml` has all, and what was not
/// chosen there gives way to later options.
fn forget_derived(file: &mut toml::Table) {
    let preset = file.get("preset").and_then(|name| name.clone().try_into::<Preset>().ok()).unwrap_or_default();
    let own = preset.table();
    file.retain(|key, value| DERIVED.contains(&key) || key == "preset" || own.get(key) != Some(value));
    for key in DERIVED {
        let Some((key, value)) = file.remove_entry(key) else { continue };
        let mut without = preset.table();
        give_way(&mut without, file);
        if without.get(&key) != Some(&value) {
            file.insert(key, value);
        }
    }
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
        let mut layers = layers.into_iter().peekable();
        while let Some(mut layer) = layers.next() {
            if layers.peek().is_some() {
                forget_derived(&mut layer);
            }
            if layer.contains_key("adapter") {
                chosen.remove("parallel"); // it was said of other devices
            }
            chosen.extend(layer);
        }
        let preset = match chosen.get("preset") {
            Some(name) => name.clone().try_into().map_err(|e| Error::input(format!("preset: {}", one_line(&e))))?,
            None => Preset::default(),
        };
        let mut merged = preset.table();
        give_way(&mut merged, &chosen);
        merged.extend(chosen);
        merged.try_into().map_err(|e| {
            let told = one_line(&e);
            // toml tells the key last: "invalid length 2, expected an array of length 3 in `mean`".
            let by_key = told.strip_suffix('`').and_then(|told| told.rsplit_once(" in `"));
            Error::input(match by_key {
                Some((what, key)) => format!("--{}: {}", key.replace('_', "-"), serde_message(&what)),
                None => format!("settings: {told}"),
            })
        })
    }

    /// Reads a configuration file (complete or partial) as a layer for [`Settings::merge`].
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, or holds what is no setting.
    pub fn read_table(path: &Path) -> Result<toml::Table> {
        let text = std::fs::read_to_string(path).map_err(Error::io("cannot read the configuration", path))?;
        let wrong = |message: String| Error::input(format!("{}: {message}", path.display()));
        let mut table: toml::Table = text.parse().map_err(|e| wrong(toml_message(&text, &e)))?;
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
        let count = |name: &str, value: u64, max: u64| match (1..=max).contains(&value) {
            true => Ok(()),
            false => Err(Error::input(format!("--{name} must be 1 to {max}, got {value}"))),
        };
        count("epochs", self.epochs as u64, u32::MAX as u64)?;
        if self.schedule == ScheduleKind::Plateau {
            count("lr-patience", self.lr_patience as u64, u32::MAX as u64)?;
        }
        count("max-steps", self.max_steps.unwrap_or(1), i64::MAX as u64)?;
        count("batch-size", self.batch_size as u64, 65_536)?;
        count("image-size", self.image_size.unwrap_or(1) as u64, 4096)?;
        count("workers", self.workers.unwrap_or(1) as u64, 1024)?;

        // As given and as the device has it: 0.99999999999 is below 1, but the f32 that it becomes is not.
        let number = |name: &str, value: f64, range: &str, ok: &dyn Fn(f64) -> bool| {
            let rounded = value as f32 as f64;
            let message = match (ok(value), ok(rounded) && rounded.is_finite()) {
                (true, true) => return Ok(()),
                (true, false) => format!("--{name} must be {range}, got {value:?}, as a 32-bit float {rounded:?}"),
                (false, _) => format!("--{name} must be {range}, got {value:?}"),
            };
            Err(Error::input(message))
        };
        let half_open = |name, value| number(name, value, "at least 0 and below 1", &|v| (0.0..1.0).contains(&v));
        let open = |name, value| number(name, value, "above 0 and below 1", &|v| v > 0.0 && v < 1.0);
        // Devices take smaller numbers for 0.
        let positive = |name, value| number(name, value, "1.2e-38 to 3.4e38", &|v| v >= f32::MIN_POSITIVE as f64);
        let not_negative = |name, value| number(name, value, "0 to 3.4e38", &|v| v >= 0.0);
        open("split", self.split)?;
        half_open("dropout", self.dropout.unwrap_or(0.0))?;
        number("bias-init", self.bias_init.unwrap_or(0.0), "within 3.4e38", &|v| v.is_finite())?;
        positive("lr", self.lr)?;
        half_open("momentum", self.momentum)?;
        half_open("beta1", self.beta1)?;
        half_open("beta2", self.beta2)?;
        positive("epsilon", self.epsilon)?;
        not_negative("weight-decay", self.weight_decay)?;
        not_negative("bias-lr-scale", self.bias_lr_scale)?;
        half_open("label-smoothing", self.label_smoothing)?;
        not_negative("warmup-epochs", self.warmup_epochs)?;
        positive("step-epochs", self.step_epochs)?;
        open("lr-factor", self.lr_factor)?;
        number("min-lr", self.min_lr, "0 to --lr", &|v| (0.0..=self.lr.max(self.lr as f32 as f64)).contains(&v))?;
        number("min-area", self.min_area, "above 0 and at most 1", &|v| v > 0.0 && v <= 1.0)?;
        half_open("color-jitter", self.color_jitter)?;
        number("pca-jitter", self.pca_jitter, "0 to 10", &|v| (0.0..=10.0).contains(&v))?;
        number("erase", self.erase, "0 to 1", &|v| (0.0..=1.0).contains(&v))?;
        number("mixup", self.mixup, "0, or 0.001 to 100", &|v| v == 0.0 || (0.001..=100.0).contains(&v))?;
        number("cutmix", self.cutmix, "0, or 0.001 to 100", &|v| v == 0.0 || (0.001..=100.0).contains(&v))?;
        if self.batch_size == 1 && (self.mixup > 0.0 || self.cutmix > 0.0) {
            return Err(Error::input(
                "--mixup and --cutmix mix the pictures of a batch: they need a --batch-size of 2 or more",
            ));
        }
        for (mean, std) in self.mean.into_iter().zip(self.std) {
            number("mean", mean, "within 3.4e38", &|v| v.is_finite())?;
            positive("std", std)?;
        }
        if self.bias_init.is_some() && self.init != InitKind::Model {
            return Err(Error::input("--bias-init changes the model's own first biases: it needs --init model"));
        }
        if self.cache.is_empty() {
            return Err(Error::input("--cache is empty: expected auto, off or a folder"));
        }
        if self.nesterov && self.paper_sgd {
            return Err(Error::input("--nesterov and --paper-sgd exclude each other: set one to false"));
        }
        Ok(())
    }

    /// Where decoded pictures are kept, if at all.
    pub fn picture_cache(&self) -> Option<Place> {
        match self.cache.as_str() {
            "off" => None,
            "auto" => Some(Place::Own),
            folder => Some(Place::Folder(folder.into())),
        }
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
mod tests;
