//! `convoy train`: settings from preset, file and options; a run folder; the run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Command;
use serde::Serialize;

use super::console::Console;
use super::open_device;
use super::progress::Progress;
use convoy::backend::DeviceInfo;
use convoy::data::{self, Dataset, ScanOptions};
use convoy::formats::Checkpoint;
use convoy::models::Model;
use convoy::train::config::{
    Augmentation, DropoutForm, InitKind, MADE_BY, OptimizerKind, ResizeKind, ScheduleKind, Settings,
};
use convoy::train::{self, Event, Job, Outcome, Preset, RunFolder, Stopped, run_folder};
use convoy::{Error, Result};

/// Settings that may change when a run is resumed: how far it goes, where it runs, where its pictures are now.
const FREE: [&str; 7] = ["epochs", "max_steps", "patience", "workers", "adapter", "dir", "val"];

/// Options of `convoy train`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    options: Options,
    /// Folder for the runs
    #[arg(long, value_name = "DIR", default_value = "runs", help_heading = "Run")]
    out: PathBuf,
    /// Name of the run's folder [default: model and date]
    #[arg(long, help_heading = "Run")]
    name: Option<String>,
    /// Go on with the run in this folder, to the bit; it keeps its settings, but --epochs and --max-steps may be raised
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "preset", "out", "name"], help_heading = "Run")]
    resume: Option<PathBuf>,
    /// Take the settings from this file, such as a run's config.toml; options override it
    #[arg(long, value_name = "FILE", conflicts_with = "preset", help_heading = "Run")]
    config: Option<PathBuf>,
}

/// The options that are settings: the ids of the arguments are the keys of `config.toml`, and what is given here goes over the preset.
#[derive(clap::Args, Serialize, Debug)]
struct Options {
    /// Folder of pictures: a folder per class, or files whose names begin with the class
    #[arg(value_name = "DIR", required_unless_present_any = ["resume", "config"])]
    dir: Option<PathBuf>,
    /// Recipe that sets the defaults of the others [default: modern]
    #[arg(long)]
    preset: Option<Preset>,
    /// Device: auto, an index or part of a name as `convoy adapters` prints them, vulkan, metal, dx12, gl or cpu [default: auto]
    #[arg(long, env = "CONVOY_ADAPTER", value_name = "DEVICE")]
    adapter: Option<String>,
    /// Seed of everything random
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64), help_heading = "Run")]
    seed: Option<u64>,

    /// Model: a name of the zoo (alexnet, alexnet-tutorial, four-layer) or a .toml file
    #[arg(long, help_heading = "Model")]
    model: Option<String>,
    /// Height and width of what the network sees, pixels [default: the model's own]
    #[arg(long, value_name = "N", help_heading = "Model")]
    image_size: Option<usize>,
    /// Rate of all dropout layers [default: the model's own]
    #[arg(long, value_name = "RATE", help_heading = "Model")]
    dropout: Option<f64>,
    /// When dropout makes up for what it drops
    #[arg(long, value_name = "FORM", help_heading = "Model")]
    dropout_form: Option<DropoutForm>,
    /// How weights start
    #[arg(long, help_heading = "Model")]
    init: Option<InitKind>,

    /// Passes over the training pictures, a resumed run's earlier ones included; the length of the schedule
    #[arg(long, value_name = "N", help_heading = "Training")]
    epochs: Option<usize>,
    /// Stop after so many steps in all, if --epochs are not done before; does not change the schedule
    #[arg(long, value_name = "N", help_heading = "Training")]
    max_steps: Option<u64>,
    /// Pictures in a step
    #[arg(long, value_name = "N", help_heading = "Training")]
    batch_size: Option<usize>,
    /// Stop when validation top-1 has not become better for so many epochs; 0 never
    #[arg(long, value_name = "EPOCHS", help_heading = "Training")]
    patience: Option<usize>,
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
    /// Smallest learning rate of cosine and plateau
    #[arg(long, value_name = "RATE", help_heading = "Schedule")]
    min_lr: Option<f64>,
    /// Factor of each drop of step and plateau
    #[arg(long, value_name = "X", help_heading = "Schedule")]
    lr_factor: Option<f64>,
    /// Epochs between two drops of step
    #[arg(long, value_name = "EPOCHS", help_heading = "Schedule")]
    step_epochs: Option<f64>,
    /// Epochs without a better validation error before a drop of plateau
    #[arg(long, value_name = "EPOCHS", help_heading = "Schedule")]
    lr_patience: Option<usize>,

    /// Share of each class to train on; the rest validates
    #[arg(long, value_name = "SHARE", help_heading = "Data")]
    split: Option<f64>,
    /// Folder of validation pictures, in place of the split
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    val: Option<PathBuf>,
    /// What is done to training pictures
    #[arg(long, help_heading = "Data")]
    augment: Option<Augmentation>,
    /// Smallest part of a picture's area that --augment resized takes
    #[arg(long, value_name = "SHARE", help_heading = "Data")]
    min_area: Option<f64>,
    /// How pictures become square
    #[arg(long, help_heading = "Data")]
    resize: Option<ResizeKind>,
    /// Per channel R,G,B of pixels in 0..1: subtracted
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', help_heading = "Data")]
    mean: Option<Vec<f64>>,
    /// Per channel R,G,B: divided by
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', help_heading = "Data")]
    std: Option<Vec<f64>>,
    /// Threads that decode pictures; results do not depend on it [default: one per processor]
    #[arg(long, value_name = "N", help_heading = "Data")]
    workers: Option<usize>,
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
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Array(values) => values.iter().map(show).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Trains.
///
/// # Errors
/// Whatever keeps the run from going to its end; what it had reached is in its folder.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let Plan { settings, model, dataset, from } = match &args.resume {
        Some(run) => resume(run, &args.options)?,
        None => start(&args)?,
    };
    let mut device = open_device(&settings.adapter, console)?;
    let job = Job { settings, model, dataset };
    let (mut folder, checkpoint) = match from {
        Some((path, checkpoint)) => {
            let step = train::position::Position::restore(&checkpoint)?.step;
            (RunFolder::open(&path, step)?, Some(checkpoint))
        }
        None => {
            let name = args.name.unwrap_or_else(|| run_folder::default_name(&job.model.name));
            (RunFolder::create(&args.out, &name)?, None)
        }
    };
    folder.write_text("config.toml", &config_text(&job, device.info())?)?;
    announce(&job, &folder, device.info(), console)?;

    let stop = stop_on_ctrl_c()?;
    let mut progress = Progress::new(*console);
    let mut unwritable = Ok(());
    let sample = job.dataset.val.first().map(|item| item.path.clone());
    let outcome = train::train(job, checkpoint, device.as_mut(), &mut folder, &stop, &mut |event: &Event| {
        if unwritable.is_ok() {
            unwritable = progress.show(event);
        }
    });
    progress.clear();
    match outcome {
        Ok(outcome) => {
            folder.log(&ending(&outcome))?;
            conclude(&outcome, &folder, sample.as_deref(), console)?;
            unwritable
        }
        Err(error) => {
            folder.log(&format!("error: {error}"))?;
            Err(error)
        }
    }
}

/// What is to be run.
struct Plan {
    settings: Settings,
    model: Model,
    dataset: Dataset,
    /// Folder and checkpoint of the run that goes on.
    from: Option<(PathBuf, Checkpoint)>,
}

impl Options {
    /// What was given, with paths that hold in any folder.
    fn table(&self) -> Result<toml::Table> {
        let mut table = toml::Table::try_from(self).map_err(|e| Error::input(format!("options: {e}")))?;
        if table.get("adapter").and_then(|a| a.as_str()) == Some("") {
            // An empty CONVOY_ADAPTER is an unset one.
            table.remove("adapter");
        }
        for key in ["dir", "val"] {
            if let Some(path) = table.get(key).and_then(|path| path.as_str()) {
                table.insert(key.into(), absolute(Path::new(path))?.into());
            }
        }
        Ok(table)
    }
}

fn absolute(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(Error::io("cannot find the path", path))?;
    Ok(absolute.to_string_lossy().into())
}

/// A new run.
fn start(args: &Args) -> Result<Plan> {
    let mut layers = Vec::new();
    if let Some(file) = &args.config {
        layers.push(Settings::read_table(file)?);
    }
    layers.push(args.options.table()?);
    let mut settings = Settings::merge(layers)?;
    settings.check()?;
    if settings.dir.as_os_str().is_empty() {
        return Err(Error::input("no folder of pictures: give DIR, or dir in the --config file"));
    }
    let model = Model::find(&settings.model)?;
    if settings.model.ends_with(".toml") {
        settings.model = absolute(Path::new(&settings.model))?;
    }
    let dataset = scan(&settings, None)?;
    Ok(Plan { settings, model, dataset, from: None })
}

/// A run that goes on: its settings, its model and classes as its checkpoint holds them.
fn resume(run: &Path, options: &Options) -> Result<Plan> {
    let path = run.join("last.safetensors");
    if !path.is_file() {
        let message = format!("{}: no run to resume: it has no last.safetensors", run.display());
        return Err(Error::input(message));
    }
    let own = Settings::read_table(&run.join("config.toml"))?;
    let before = Settings::merge([own.clone()])?;
    let settings = Settings::merge([own, options.table()?])?;
    settings.check()?;
    if let Some(key) = settings.first_difference(&before, &FREE)? {
        let option = key.replace('_', "-");
        let message = format!("--{option} cannot change in a run that is resumed: leave it out, or start a new run");
        return Err(Error::input(message));
    }
    let checkpoint = Checkpoint::load(&path)?;
    let dataset = scan(&settings, Some(checkpoint.classes.clone()))?;
    Ok(Plan { settings, model: checkpoint.model.clone(), dataset, from: Some((run.into(), checkpoint)) })
}

fn scan(settings: &Settings, classes: Option<Vec<String>>) -> Result<Dataset> {
    let Settings { split, seed, val, .. } = settings.clone();
    data::scan(&settings.dir, &ScanOptions { split, seed, val, classes })
}

/// `config.toml`: the settings, and where the run was made.
fn config_text(job: &Job, device: &DeviceInfo) -> Result<String> {
    let mut made_by = toml::Table::new();
    made_by.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    made_by.insert("device".into(), device.name.clone().into());
    made_by.insert("backend".into(), device.backend.clone().into());
    made_by.insert("driver".into(), device.driver.clone().into());
    made_by.insert("classes".into(), job.dataset.classes.clone().into());
    let mut table = job.settings.table()?;
    table.insert(MADE_BY.into(), made_by.into());
    let text = toml::to_string(&table).map_err(|e| Error::input(format!("config.toml: {e}")))?;
    Ok(format!("# Every setting of this run. To repeat it: convoy train --config config.toml\n{text}"))
}

fn announce(job: &Job, folder: &RunFolder, device: &DeviceInfo, console: &Console) -> Result<()> {
    let Dataset { classes, train, val, .. } = &job.dataset;
    let (n, first) = (classes.len(), classes.iter().take(10).cloned().collect::<Vec<_>>().join(", "));
    let more = if n > 10 { ", .." } else { "" };
    let lines = [
        format!("data: {} training and {} validation pictures of {n} classes ({first}{more})", train.len(), val.len()),
        format!("model: {}, preset {}", job.model.name, job.settings.preset.name()),
        format!("run: {}", folder.path().display()),
    ];
    lines.iter().try_for_each(|line| console.say(line))?;
    console.detail(config_text(job, device)?)
}

/// A flag that Ctrl-C (or the system's request to end) sets; the second time the process ends at once.
fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(Error::Interrupted.exit_code().into());
        }
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "\nstopping after this step, to save; again to stop at once");
    };
    ctrlc::set_handler(handler).map_err(|e| Error::input(format!("cannot watch for Ctrl-C: {e}")))?;
    Ok(stop)
}

fn ending(outcome: &Outcome) -> String {
    let why = match outcome.stopped {
        Stopped::Epochs => "all epochs done",
        Stopped::Steps => "stopped by --max-steps",
        Stopped::Patience => "stopped by --patience: validation does not get better",
        Stopped::Interrupted => "interrupted",
    };
    let best = match &outcome.best {
        Some(best) => format!("; best validation accuracy {:.2} % in epoch {}", 100.0 * best.top1, best.epoch),
        None => String::new(),
    };
    format!("{why} after {} steps{best}", outcome.step)
}

/// Says how the run ended, where its files are and what to do with them.
fn conclude(outcome: &Outcome, folder: &RunFolder, sample: Option<&Path>, console: &Console) -> Result<()> {
    console.say(ending(outcome))?;
    let best = folder.file("best.safetensors");
    if let Some(sample) = sample.filter(|_| best.exists()) {
        console.say(format_args!("try it: convoy predict {} {}", best.display(), sample.display()))?;
    }
    if outcome.stopped == Stopped::Interrupted {
        console.say(format_args!("go on with it: convoy train --resume {}", folder.path().display()))?;
        return Err(Error::Interrupted);
    }
    match &outcome.lost {
        Some(lost) => Err(Error::input(format!("{lost}: see {}", folder.file("skipped.csv").display()))),
        None => Ok(()),
    }
}
