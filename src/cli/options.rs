//! The options of `convoy train` that are settings of the run, and what `--help` says of them.

use std::path::{Path, PathBuf};

use clap::Command;
use clap::builder::RangedU64ValueParser;
use serde::Serialize;

use super::model_help;
use convoy::train::config::{
    ActivationChoice, Augmentation, DropoutForm, InitKind, OptimizerKind, ParallelKind, PrecisionKind, ResizeKind,
    ScheduleKind,
};
use convoy::train::{Balance, Preset};
use convoy::{Error, Result};

/// The options that are settings: the ids of the arguments are the keys of `config.toml`, and what is given here goes over the preset.
#[derive(clap::Args, Serialize, Debug)]
pub struct Options {
    /// Folder of pictures: a folder per class, or files whose names begin with the class
    #[arg(value_name = "DIR", required_unless_present_any = ["resume", "config"])]
    #[serde(skip)]
    dir: Option<PathBuf>,
    /// Recipe that sets the defaults of the others [default: modern]
    #[arg(long)]
    preset: Option<Preset>,
    /// Device: auto, an index or part of a name as `convoy adapters` prints them, vulkan, metal, dx12, gl, cuda or cpu; several, with
    /// commas between, train together [default: auto]
    #[arg(long, env = "CONVOY_ADAPTER", value_name = "DEVICE")]
    adapter: Option<String>,
    /// What several devices divide among them [default: model]
    #[arg(long, help_heading = "Run")]
    parallel: Option<ParallelKind>,
    /// What convolutions and fully connected layers multiply [default: f32]
    #[arg(long, help_heading = "Run")]
    precision: Option<PrecisionKind>,
    /// Seed of everything random
    #[arg(long, value_name = "N", value_parser = count(i64::MAX as u64), help_heading = "Run")]
    seed: Option<u64>,

    #[arg(long, help = model_help(), help_heading = "Model")]
    model: Option<String>,
    /// Begin with the weights of this safetensors file, a checkpoint or a PyTorch state dict, where names and shapes agree
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    #[serde(skip)]
    pretrained: Option<PathBuf>,
    /// Height and width of what the network sees, pixels [default: the model's own]
    #[arg(long, value_name = "N", value_parser = count(u32::MAX as u64), help_heading = "Model")]
    image_size: Option<u64>,
    /// Takes the place of every activation of the model [default: the model's own]
    #[arg(long, help_heading = "Model")]
    activation: Option<ActivationChoice>,
    /// Rate of all dropout layers [default: the model's own]
    #[arg(long, value_name = "RATE", help_heading = "Model")]
    dropout: Option<f64>,
    /// When dropout makes up for what it drops
    #[arg(long, value_name = "FORM", help_heading = "Model")]
    dropout_form: Option<DropoutForm>,
    /// How weights start, those of layers too that say their own; without this option a model file decides, not the preset
    #[arg(long, help_heading = "Model")]
    init: Option<InitKind>,
    /// Where biases start that the model starts above 0: the paper's 1, Caffe's 0.1; first weights are the model's own then [default: the
    /// model's own]
    #[arg(long, value_name = "X", help_heading = "Model")]
    bias_init: Option<f64>,

    /// Passes over the training pictures, a resumed run's earlier ones included; the length of the schedule
    #[arg(long, value_name = "N", value_parser = count(u32::MAX as u64), help_heading = "Training")]
    epochs: Option<u64>,
    /// Stop after so many steps in all, if --epochs are not done before; does not change the schedule. What is evaluated within an
    /// epoch is told, but is no candidate for best.safetensors, unless there is no other
    #[arg(long, value_name = "N", value_parser = count(i64::MAX as u64), help_heading = "Training")]
    max_steps: Option<u64>,
    /// Pictures in a step
    #[arg(long, value_name = "N", value_parser = count(u32::MAX as u64), help_heading = "Training")]
    batch_size: Option<u64>,
    /// Stop when validation top-1 has not become better for so many epochs; 0 never
    #[arg(long, value_name = "EPOCHS", value_parser = count(u32::MAX as u64), help_heading = "Training")]
    patience: Option<u64>,
    /// Share of each target that is spread over all classes
    #[arg(long, value_name = "SHARE", help_heading = "Training")]
    label_smoothing: Option<f64>,

    /// Optimizer
    #[arg(long, help_heading = "Optimizer")]
    optimizer: Option<OptimizerKind>,
    /// Learning rate, after warm-up
    #[arg(long, value_name = "RATE", help_heading = "Optimizer")]
    lr: Option<f64>,
    /// Weight decay: L2, or AdamW's
    #[arg(long, value_name = "X", help_heading = "Optimizer")]
    weight_decay: Option<f64>,
    /// Whether biases decay too
    #[arg(long, value_name = "BOOL", help_heading = "Optimizer")]
    decay_biases: Option<bool>,
    /// Factor of the biases' learning rate
    #[arg(long, value_name = "X", help_heading = "Optimizer")]
    bias_lr_scale: Option<f64>,
    /// SGD's momentum
    #[arg(long, value_name = "X", help_heading = "Optimizer")]
    momentum: Option<f64>,
    /// Nesterov's momentum (SGD)
    #[arg(long, value_name = "BOOL", help_heading = "Optimizer")]
    nesterov: Option<bool>,
    /// SGD in the 2012 paper's form, whose velocity holds the learning rate
    #[arg(long, value_name = "BOOL", help_heading = "Optimizer")]
    paper_sgd: Option<bool>,
    /// Adam's decay of the first moment
    #[arg(long, value_name = "X", help_heading = "Optimizer")]
    beta1: Option<f64>,
    /// Adam's decay of the second moment
    #[arg(long, value_name = "X", help_heading = "Optimizer")]
    beta2: Option<f64>,
    /// Added to the root of Adam's second moment
    #[arg(long, value_name = "X", help_heading = "Optimizer")]
    epsilon: Option<f64>,

    /// How the learning rate changes
    #[arg(long, help_heading = "Schedule")]
    schedule: Option<ScheduleKind>,
    /// Epochs (fractions too) in which the learning rate rises linearly
    #[arg(long, value_name = "EPOCHS", help_heading = "Schedule")]
    warmup_epochs: Option<f64>,
    /// Smallest learning rate of cosine and plateau; with --lr alone it keeps the preset's share of it
    #[arg(long, value_name = "RATE", help_heading = "Schedule")]
    min_lr: Option<f64>,
    /// Factor of each drop of step and plateau
    #[arg(long, value_name = "X", help_heading = "Schedule")]
    lr_factor: Option<f64>,
    /// Epochs between two drops of step
    #[arg(long, value_name = "EPOCHS", help_heading = "Schedule")]
    step_epochs: Option<f64>,
    /// Epochs without a better validation error before a drop of plateau, once the network tells classes apart
    #[arg(long, value_name = "EPOCHS", value_parser = count(u32::MAX as u64), help_heading = "Schedule")]
    lr_patience: Option<u64>,

    /// Share of each class to train on; the rest validates
    #[arg(long, value_name = "SHARE", help_heading = "Data")]
    split: Option<f64>,
    /// Folder of validation pictures, in place of the split
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    #[serde(skip)]
    val: Option<PathBuf>,
    /// What makes up for classes of different sizes
    #[arg(long, help_heading = "Data")]
    balance: Option<Balance>,
    /// What is done to training pictures
    #[arg(long, help_heading = "Data")]
    augment: Option<Augmentation>,
    /// Smallest part of a picture's area that --augment resized takes
    #[arg(long, value_name = "SHARE", help_heading = "Data")]
    min_area: Option<f64>,
    /// How much brightness, contrast and saturation of training pictures vary: 0.4 is from 0.6 to 1.4 times
    #[arg(long, value_name = "X", help_heading = "Data")]
    color_jitter: Option<f64>,
    /// How much the colours of training pictures are shifted along the principal components of all their colours, each times its
    /// eigenvalue (of colours from 0 to 1) and a normal number of this deviation: 0.1 in the 2012 paper
    #[arg(long, value_name = "X", help_heading = "Data")]
    pca_jitter: Option<f64>,
    /// Probability with which a part of a training picture is erased
    #[arg(long, value_name = "P", help_heading = "Data")]
    erase: Option<f64>,
    /// Blends training pictures, and their labels, in shares drawn from Beta(ALPHA, ALPHA): 0.2 is common, 0 is off
    #[arg(long, value_name = "ALPHA", help_heading = "Data")]
    mixup: Option<f64>,
    /// Replaces parts of training pictures by others', of sizes from Beta(ALPHA, ALPHA): 1 is common, 0 is off
    #[arg(long, value_name = "ALPHA", help_heading = "Data")]
    cutmix: Option<f64>,
    /// How pictures become square
    #[arg(long, help_heading = "Data")]
    resize: Option<ResizeKind>,
    /// Per channel R,G,B of pixels in 0..1: subtracted
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', allow_hyphen_values = true, help_heading = "Data")]
    mean: Option<Vec<f64>>,
    /// Whether the mean of the training pictures at each place is subtracted instead, as in the 2012 paper
    #[arg(long, value_name = "BOOL", help_heading = "Data")]
    mean_image: Option<bool>,
    /// Per channel R,G,B: divided by
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', help_heading = "Data")]
    std: Option<Vec<f64>>,
    /// Where decoded pictures are kept for later epochs and runs: auto (the user's folder of caches), off, or a folder; results do not
    /// depend on it, as long as no picture is changed during the run [default: auto]
    #[arg(long, value_name = "auto|off|DIR", help_heading = "Data")]
    cache: Option<String>,
    /// Threads that decode pictures; results do not depend on it [default: one per processor]
    #[arg(long, value_name = "N", value_parser = count(u32::MAX as u64), help_heading = "Data")]
    workers: Option<u64>,
}

impl Options {
    /// What was given, with paths that hold in any folder.
    pub fn table(&self) -> Result<toml::Table> {
        let mut table = toml::Table::try_from(self).map_err(|e| Error::input(format!("options: {e}")))?;
        if table.get("adapter").and_then(|a| a.as_str()) == Some("") {
            // An empty CONVOY_ADAPTER is an unset one.
            table.remove("adapter");
        }
        if let Some(cache) = self.cache.as_deref().filter(|cache| !["auto", "off", ""].contains(cache)) {
            table.insert("cache".into(), absolute(Path::new(cache))?.into());
        }
        for (key, path) in [("dir", &self.dir), ("val", &self.val), ("pretrained", &self.pretrained)] {
            if let Some(path) = path {
                table.insert(key.into(), absolute(path)?.into());
            }
        }
        Ok(table)
    }
}

/// A number that TOML can hold; its exact range [`convoy::train::Settings::check`] knows.
fn count(max: u64) -> RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(0..=max)
}

/// The path from the root, links as they are.
///
/// # Errors
/// When it is not Unicode: TOML, in which a run's settings are kept, cannot hold it.
pub fn absolute(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(Error::io("cannot find the path", path))?;
    absolute.into_os_string().into_string().map_err(|path| {
        let path = Path::new(&path).display();
        Error::input(format!("{path}: the path is not Unicode, so config.toml cannot hold it; rename the folder"))
    })
}

/// Adds to the help of each option what the presets say.
pub fn with_defaults(command: Command) -> Command {
    let presets = Preset::ALL.map(|preset| (preset.name(), preset.table()));
    command.mut_args(|arg| {
        let value = |table: &toml::Table| table.get(arg.get_id().as_str()).map(show);
        let values: Vec<(&str, String)> =
            presets.iter().filter_map(|(name, table)| Some((*name, value(table)?))).collect();
        if arg.get_id() == "preset" || values.is_empty() {
            return arg;
        }
        let told = match values.iter().all(|(_, value)| *value == values[0].1) {
            true => values[0].1.clone(),
            false => values.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", "),
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        arg.help(format!("{help} [default: {told}]"))
    })
}

/// A value as one would type it.
fn show(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Float(number) if *number != 0.0 && number.abs() < 1e-3 => format!("{number:e}"),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Array(values) => values.iter().map(show).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
