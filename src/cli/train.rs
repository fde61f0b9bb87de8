//! `convoy train`: settings from preset, file and options; a run folder; the run.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::console::{Console, bytes, quoted};
use super::exchange;
use super::options::{Options, absolute};
use super::progress::Progress;
use super::stop::stop_on_ctrl_c;
use super::{TuneName, open_device, tune_device};
use convoy::backend::DeviceOptions;
use convoy::backend::{Device, DeviceInfo};
use convoy::data::{self, Dataset, Item, ScanOptions};
use convoy::formats::{Checkpoint, Pretrained, is_model_file, load_model};
use convoy::models::{Model, TrainGraph};
use convoy::train::config::{MADE_BY, Settings};
use convoy::train::position::{FREE, Position};
use convoy::train::{self, Event, Job, Lock, Outcome, RunFolder, Stopped, run_folder};
use convoy::{Error, Result};

/// Options of `convoy train`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    options: Options,
    /// Search for the fastest kernels on this device before the run; what is found is kept for the next one
    #[arg(long, value_enum, default_value_t = TuneName::Quick, help_heading = "Run")]
    tune: TuneName,
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

/// Trains.
///
/// # Errors
/// Whatever keeps the run from going to its end; what it had reached is in its folder.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let Plan { settings, model, dataset, from } = match &args.resume {
        Some(run) => resume(run, &args.options)?,
        None => start(&args)?,
    };
    let pretrained = match (&settings.pretrained, &from) {
        (Some(path), None) => Some(Pretrained::load(path)?),
        _ => None,
    };
    let warnings = match from {
        None => train::advice(&args.options.table()?, &settings, &model),
        Some(_) => Vec::new(),
    };
    let job = Job { pretrained, ..Job::new(settings, model, dataset) };
    let TrainGraph { graph, parameters, loss, logits, .. } = job.train_graph()?;
    let taken = job.pretrained.as_ref().map(|pretrained| pretrained.report(&parameters)).transpose()?;
    let position = from.as_ref().map(|(lock, checkpoint)| {
        Position::restore(&checkpoint.extra).map_err(|error| {
            let file = lock.folder().join("last.safetensors");
            Error::input(format!("{}: {error}", file.display()))
        })
    });
    let position = position.transpose()?;
    position.as_ref().map_or(Ok(()), |position| position.check(&job))?;
    let precision = job.settings.precision.of_batch(job.settings.batch_size);
    let options = DeviceOptions { precision, ..DeviceOptions::default() };
    let (device, line) = open_device(&job.settings.adapter, job.settings.parallel, options, console)?;
    let mut opened = Opened { device, lines: vec![line] };
    for warning in warnings {
        console.warn(&warning);
        opened.lines.push(format!("warning: {warning}"));
    }
    for line in taken.into_iter().flatten() {
        console.say(&line)?;
        opened.lines.push(line);
    }
    opened.lines.extend(tune_device(opened.device.as_mut(), &graph, args.tune, console)?);
    if let Some(exchange) = opened.device.exchange(&graph, &[loss, logits])? {
        let [line, table] = exchange::text(&exchange, &opened.device.parts());
        console.say(&line)?;
        console.detail(&table)?;
        opened.lines.extend([line, table]);
    }
    // From here on a run's files are touched, and Ctrl-C ends with a checkpoint.
    let stop = stop_on_ctrl_c()?;
    let (Some((lock, checkpoint)), Some(position)) = (from, position) else {
        let name = args.name.unwrap_or_else(|| run_folder::default_name(&job.model.name));
        let mut folder = RunFolder::create(&args.out, &name)?;
        let mut trained = false;
        let ended = train_in(&mut folder, job, opened, None, &stop, &mut trained, console);
        if ended.is_err() && !trained {
            folder.discard(); // what cannot start leaves no folder
        }
        return ended;
    };
    let mut folder = RunFolder::open(lock, position.step)?;
    train_in(&mut folder, job, opened, Some(checkpoint), &stop, &mut true, console)
}

/// A device, and what was said of it.
struct Opened {
    device: Box<dyn Device>,
    lines: Vec<String>,
}

/// Trains in `folder`; `trained` becomes true when there is something in it to keep.
fn train_in(
    folder: &mut RunFolder,
    job: Job,
    Opened { mut device, lines }: Opened,
    checkpoint: Option<Checkpoint>,
    stop: &AtomicBool,
    trained: &mut bool,
    console: &Console,
) -> Result<()> {
    if checkpoint.is_none() && job.settings.model == run_folder::MODEL {
        folder.write_text(run_folder::MODEL, &job.model.to_toml()?)?;
    }
    folder.write_text("config.toml", &config_text(&job, device.info())?)?;
    lines.iter().try_for_each(|line| folder.log(line))?;
    announce(&job, folder, console)?;
    console.detail(config_text(&job, device.info())?)?;

    let mut progress = Progress::new(*console);
    let mut unwritable = Ok(());
    let samples = job.dataset.val.clone();
    let outcome = train::train(job, checkpoint, device.as_mut(), folder, stop, &mut |event: &Event| {
        *trained |= matches!(event, Event::Step { .. });
        if unwritable.is_ok() {
            unwritable = progress.show(event);
        }
    });
    progress.clear();
    match outcome {
        Ok(outcome) => {
            *trained = true;
            folder.log(&ending(&outcome))?;
            conclude(&outcome, folder, &samples, console)?;
            unwritable
        }
        Err(error) => {
            // A loss that is not finite at the first step is a result too.
            *trained |= matches!(error, Error::NotFinite { .. }) || folder.file("last.safetensors").exists();
            let _ = folder.log(&format!("error: {error}")); // on a full disk too this is the error to tell
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
    from: Option<(Lock, Checkpoint)>,
}

/// A new run.
fn start(args: &Args) -> Result<Plan> {
    let mut layers = Vec::new();
    if let Some(file) = &args.config {
        layers.push(settings_in(file)?);
    }
    layers.push(args.options.table()?);
    let mut settings = Settings::merge(layers)?;
    settings.check()?;
    if settings.dir.as_os_str().is_empty() {
        return Err(Error::input("no folder of pictures: give DIR, or dir in the --config file"));
    }
    let mut model = load_model(&settings.model)?;
    if let Some(activation) = settings.activation {
        model = model.with_activation(activation.into())?;
    }
    if let Some(start) = settings.bias_init {
        model = model.with_biases(start as f32)?;
    }
    if is_model_file(&settings.model) {
        settings.model = run_folder::MODEL.into();
    }
    let dataset = scan(&settings, None)?;
    Ok(Plan { settings, model, dataset, from: None })
}

/// The settings in a file. A model file that it names is beside it, as a run's copy is, wherever the run's folder is now.
fn settings_in(file: &Path) -> Result<toml::Table> {
    let mut table = Settings::read_table(file)?;
    if let Some(model) = table.get("model").and_then(|model| model.as_str()).filter(|model| is_model_file(model)) {
        let model = absolute(&file.with_file_name(model))?;
        table.insert("model".into(), model.into());
    }
    Ok(table)
}

/// A run that goes on: its settings, its model and classes as its checkpoint holds them.
fn resume(run: &Path, options: &Options) -> Result<Plan> {
    let path = run.join("last.safetensors");
    if !path.is_file() {
        let message = format!("{}: no run to resume: it has no last.safetensors", run.display());
        return Err(Error::input(message));
    }
    let lock = Lock::take(run)?;
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
    Ok(Plan { settings, model: checkpoint.model.clone(), dataset, from: Some((lock, checkpoint)) })
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
    let [_, height, width] = job.model.input;
    let size = job.settings.image_size.map_or([height, width], |side| [side; 2]);
    made_by.insert("image_size".into(), size.map(|extent| extent as i64).to_vec().into());
    made_by.insert("workers".into(), (job.loader_options(1).workers as i64).into());
    let mut table = job.settings.table()?;
    table.insert(MADE_BY.into(), made_by.into());
    let text = toml::to_string(&table).map_err(|e| Error::input(format!("config.toml: {e}")))?;
    Ok(format!(
        "# Every setting of this run; those not here (image_size, dropout, workers) were left to the model and the machine.\n\
         # To repeat it: convoy train --config config.toml\n{text}"
    ))
}

/// Says what is trained on what, on the console and in the log.
fn announce(job: &Job, folder: &mut RunFolder, console: &Console) -> Result<()> {
    let Dataset { classes, train, val, notes, .. } = &job.dataset;
    let (n, first) = (classes.len(), classes.iter().take(10).cloned().collect::<Vec<_>>().join(", "));
    let more = if n > 10 { ", .." } else { "" };
    let lines = [
        format!("data: {} training and {} validation pictures of {n} classes ({first}{more})", train.len(), val.len()),
        format!("model: {}, preset {}", job.model.name, job.settings.preset.name()),
        format!("run: {}", folder.path().display()),
    ];
    for line in &lines {
        console.say(line)?;
        folder.log(line)?;
    }
    for note in notes {
        console.warn(note);
        folder.log(note)?;
    }
    Ok(())
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
    let steps = if outcome.step == 1 { "step" } else { "steps" };
    format!("{why} after {} {steps}{best}", outcome.step)
}

/// Says how the run ended, where its files are and what to do with them.
fn conclude(outcome: &Outcome, folder: &RunFolder, samples: &[Item], console: &Console) -> Result<()> {
    console.say(ending(outcome))?;
    if let Some(peak) = data::peak_memory() {
        console.detail(format_args!("the process took at most {} of memory", bytes(peak)))?;
    }
    let best = folder.file("best.safetensors");
    let sample = samples.iter().find(|item| !folder.has_skipped(&item.relative));
    if let Some(sample) = sample.filter(|_| best.exists()) {
        console.say(format_args!("try it: convoy predict {} {}", quoted(&best), quoted(&sample.path)))?;
    }
    if outcome.stopped == Stopped::Interrupted {
        console.say(format_args!("go on with it: convoy train --resume {}", quoted(folder.path())))?;
        return Err(Error::Interrupted);
    }
    match &outcome.lost {
        Some(lost) => Err(Error::input(format!("{lost}: see {}", folder.file("skipped.csv").display()))),
        None => Ok(()),
    }
}
