//! `convoy predict`: class and probability of each picture.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::DeviceArgs;
use super::console::{self, Console};
use convoy::classifier::{Classifier, Prediction, Score};
use convoy::data;
use convoy::error::escaped;
use convoy::formats::Checkpoint;
use convoy::{Error, Result};

/// Pictures whose results are printed together, so that a large folder shows progress and needs little memory.
const CHUNK: usize = 1024;

/// Options of `convoy predict`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A checkpoint, such as runs/NAME/best.safetensors
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// Pictures, folders of pictures, or patterns such as 'holiday/*.jpg'
    #[arg(value_name = "PICTURE", required = true)]
    pictures: Vec<PathBuf>,
    /// Classes to show of each picture, the likeliest first
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// Pictures at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Predicts and prints. A picture that cannot be read is told as such, and the others go on.
///
/// # Errors
/// When the checkpoint cannot be used, or a picture could not be read.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let checkpoint = Checkpoint::load(&args.checkpoint)?;
    let mut paths = Vec::new();
    for argument in &args.pictures {
        paths.extend(expand(argument)?);
    }
    let device = args.device.open(&console.without_output(args.json))?;
    let batch = (args.batch_size as usize).min(paths.len());
    let mut classifier = Classifier::new(checkpoint, device, batch)?;
    classifier.refused().iter().for_each(|text| console.warn(text));
    let top = (args.top as usize).min(classifier.classes().len());
    let (mut documents, mut failures) = (Vec::new(), Vec::new());
    for chunk in paths.chunks(CHUNK) {
        for prediction in classifier.predict(chunk)? {
            if let Err(reason) = &prediction.scores {
                let failure = format!("{}: {reason}", prediction.path.display());
                // Each is told once: the first is in the error at the end.
                if !failures.is_empty() {
                    console.warn(&failure);
                }
                failures.push(failure);
            }
            match args.json {
                true => documents.push(Document::new(prediction, top)),
                false => print_line(&prediction, top)?,
            }
        }
    }
    if args.json {
        console::print_json(&documents)?;
    }
    match &failures[..] {
        [] => Ok(()),
        [first, ..] => {
            let (failed, all) = (failures.len(), paths.len());
            Err(Error::input(format!("{failed} of {all} pictures could not be read; the first: {first}")))
        }
    }
}

/// The pictures that an argument names: itself, those in a folder, or those that match a pattern.
fn expand(argument: &Path) -> Result<Vec<PathBuf>> {
    if argument.is_dir() {
        return data::pictures(argument);
    }
    let text = argument.to_string_lossy();
    // A file may be called `cat[1].jpg`; a path that is not there and has no wildcard is told when it is read.
    if argument.exists() || !text.contains(['*', '?', '[']) {
        return Ok(vec![argument.into()]);
    }
    let matches = glob::glob(&text).map_err(|e| Error::input(format!("{text}: not a pattern: {e}")))?;
    let mut paths = Vec::new();
    for path in matches {
        let path = path.map_err(|e| Error::input(format!("{text}: {e}")))?;
        match path.is_dir() {
            true => paths.extend(data::pictures(&path)?),
            false => paths.push(path),
        }
    }
    match paths.is_empty() {
        true => Err(Error::input(format!("{text}: no file matches the pattern"))),
        false => Ok(paths),
    }
}

/// An element of what `--json` prints: a label with its probability, or an error.
#[derive(Serialize)]
struct Document {
    path: String,
    label: Option<String>,
    probability: Option<f64>,
    top: Vec<Score>,
    error: Option<String>,
}

impl Document {
    fn new(prediction: Prediction, top: usize) -> Self {
        let (mut scores, error) = match prediction.scores {
            Ok(scores) => (scores, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        scores.truncate(top);
        Document {
            path: prediction.path.to_string_lossy().into(),
            label: scores.first().map(|score| score.label.clone()),
            probability: scores.first().map(|score| score.probability),
            top: scores,
            error,
        }
    }
}

fn print_line(prediction: &Prediction, top: usize) -> Result<()> {
    let Ok(scores) = &prediction.scores else { return Ok(()) };
    let entry = |score: &Score| format!("{} {:.2} %", score.label, 100.0 * score.probability);
    let entries: Vec<String> = scores[..top].iter().map(entry).collect();
    console::print(escaped(&format!("{}: {}", prediction.path.display(), entries.join(", "))))
}
