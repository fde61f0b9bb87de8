//! `convoy eval`: how well a checkpoint does on labelled pictures.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::Serialize;

use super::DeviceArgs;
use super::console::{self, Console};
use convoy::classifier::{Classifier, Evaluation, Views};
use convoy::data;
use convoy::formats::Checkpoint;
use convoy::train::lost_classes;
use convoy::train::metrics::ClassScore;
use convoy::{Error, Result};

/// Options of `convoy eval`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A checkpoint, such as runs/NAME/best.safetensors
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// Folder of labelled pictures; of one divided into train and val (or test), the latter is used
    dir: PathBuf,
    /// Pictures at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Look at each picture several times and average the probabilities
    #[arg(long, value_enum, value_name = "VIEWS")]
    tta: Option<Tta>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Test-time augmentation.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Tta {
    /// Corners, centre, and their mirror images, as the 2012 paper
    TenCrop,
}

/// Evaluates and prints.
///
/// # Errors
/// When the checkpoint or the pictures cannot be used, or a class lost more than a tenth of its pictures.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let checkpoint = Checkpoint::load(&args.checkpoint)?;
    let (items, notes) = data::scan_labelled(&args.dir, &checkpoint.classes)?;
    notes.iter().for_each(|note| console.warn(note));
    let device = args.device.open(&console.without_output(args.json))?;
    let batch = (args.batch_size as usize).min(items.len());
    let views = args.tta.map_or(Views::Center, |Tta::TenCrop| Views::TenCrop);
    let mut classifier = Classifier::with_views(checkpoint, device, batch, views)?;
    classifier.refused().iter().for_each(|text| console.warn(text));
    let result = classifier.evaluate(items.clone())?;
    for picture in &result.skipped {
        console.warn(format_args!("skipped {}: {}", picture.relative, picture.reason));
    }
    match args.json {
        true => console::print_json(&Document::new(&result, classifier.classes()))?,
        false => console::print(table(&result, classifier.classes()))?,
    }
    let skipped: HashSet<&str> = result.skipped.iter().map(|picture| picture.relative.as_str()).collect();
    match lost_classes(classifier.classes(), items.iter(), |item| skipped.contains(&item.relative[..])) {
        Some(message) => Err(Error::input(message)),
        None => Ok(()),
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    loss: f64,
    top1: f64,
    top5: f64,
    n: u64,
    classes: &'a [String],
    /// Counts by true class (row) and predicted class (column).
    confusion: &'a [Vec<u64>],
    per_class: Vec<ClassDocument<'a>>,
    /// Number of pictures that could not be read.
    skipped: usize,
}

#[derive(Serialize)]
struct ClassDocument<'a> {
    class: &'a str,
    precision: f64,
    recall: f64,
    f1: f64,
    n: u64,
}

impl<'a> Document<'a> {
    fn new(result: &'a Evaluation, classes: &'a [String]) -> Self {
        let scores = classes.iter().zip(result.confusion.per_class());
        Document {
            loss: result.means.loss,
            top1: result.means.top1,
            top5: result.means.top5,
            n: result.n,
            classes,
            confusion: &result.confusion.0,
            per_class: scores
                .map(|(class, ClassScore { precision, recall, f1, n })| ClassDocument {
                    class,
                    precision,
                    recall,
                    f1,
                    n,
                })
                .collect(),
            skipped: result.skipped.len(),
        }
    }
}

/// For people: the figures, then a row per class, with its row of the confusion matrix where that is not too wide.
fn table(result: &Evaluation, classes: &[String]) -> String {
    let means = result.means;
    let mut text = format!(
        "{} pictures: loss {:.4}, top-1 {:.2} %, top-5 {:.2} %\n\n",
        result.n,
        means.loss,
        100.0 * means.top1,
        100.0 * means.top5
    );
    let widest = classes.iter().map(|class| class.chars().count()).max().unwrap_or(0).max(5);
    let matrix = classes.len() <= 10;
    text += &format!("{:widest$}  precision  recall      f1       n", "class");
    if matrix {
        text += "  predicted as";
        text.extend(classes.iter().map(|class| format!(" {class}")));
    }
    for (class, (score, row)) in classes.iter().zip(result.confusion.per_class().iter().zip(&result.confusion.0)) {
        let (precision, recall, f1) = (score.precision, score.recall, score.f1);
        text += &format!("\n{class:widest$}  {precision:9.4}  {recall:6.4}  {f1:6.4}  {:6}", score.n);
        if matrix {
            text += "              ";
            text.extend(
                row.iter().zip(classes).map(|(n, class)| format!(" {n:>width$}", width = class.chars().count())),
            );
        }
    }
    text
}
