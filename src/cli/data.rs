//! `convoy data`: what a folder of pictures holds, what the split will be, what cannot be read.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::console::{self, Console};
use convoy::Result;
use convoy::data::{Dataset, Duplicate, Inspection, Item, Labels, ScanOptions, Skipped, inspect, scan};
use convoy::error::escaped;
use convoy::formats::csv;
use convoy::train::Settings;

/// Lines of a list that are shown without `-v`.
const SHOWN: usize = 10;

/// Options of `convoy data`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder of pictures, laid out as for `convoy train`
    dir: PathBuf,
    /// Share of each class to train on; the rest validates [default: as `convoy train`]
    #[arg(long, value_name = "SHARE")]
    split: Option<f64>,
    /// Seed of the split [default: as `convoy train`]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Folder of validation pictures, in place of the split
    #[arg(long, value_name = "DIR")]
    val: Option<PathBuf>,
    /// Look at names only: decode no picture, so tell no sizes, unreadable files and duplicates
    #[arg(long)]
    quick: bool,
    /// Print which picture trains and which validates, as lines of path,label,split; by names only, so that a picture may be among them that
    /// cannot be read
    #[arg(long, conflicts_with = "json")]
    list: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Looks and tells.
///
/// # Errors
/// Those of the scan: what `convoy train` could not begin with.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let defaults = Settings::merge([])?;
    let (split, seed) = (args.split.unwrap_or(defaults.split), args.seed.unwrap_or(defaults.seed));
    let dataset = scan(&args.dir, &ScanOptions { split, seed, val: args.val, classes: None })?;
    if args.list {
        dataset.notes.iter().for_each(|note| console.warn(note));
        return print_pictures(&dataset);
    }
    let inspection = (!args.quick).then(|| {
        let bar = ProgressBar::new((dataset.train.len() + dataset.val.len()) as u64);
        bar.set_style(
            ProgressStyle::with_template("{wide_bar} {pos}/{len} pictures, {eta} left").unwrap_or(bar.style()),
        );
        if console.is_quiet() || args.json {
            bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        let inspection = inspect(&dataset, |done| bar.set_position(done as u64));
        bar.finish_and_clear();
        inspection
    });
    let document = Document::new(&dataset, inspection.as_ref(), split, seed);
    match args.json {
        true => console::print_json(&document),
        false => console::print(document.text(console.is_verbose()).trim_end()),
    }
}

/// Prints a line a picture, in the order of their paths.
fn print_pictures(dataset: &Dataset) -> Result<()> {
    let Dataset { classes, train, val, .. } = dataset;
    let parts = [(train, "train"), (val, "val")];
    let mut items: Vec<_> =
        parts.into_iter().flat_map(|(items, split)| items.iter().map(move |item| (item, split))).collect();
    items.sort_by(|(one, _), (other, _)| one.path.cmp(&other.path));
    let line = |(item, split): (&Item, &str)| {
        [&item.path.to_string_lossy(), &classes[item.class as usize][..], split]
            .map(|text| csv::field(&escaped(text)))
            .join(",")
    };
    let lines = ["path,label,split".to_string()].into_iter().chain(items.into_iter().map(line));
    console::print(lines.collect::<Vec<_>>().join("\n"))
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document {
    folder: PathBuf,
    labels: Labels,
    pictures: usize,
    train: usize,
    val: usize,
    /// Pictures of the largest class for one of the smallest.
    imbalance: f64,
    classes: Vec<ClassDocument>,
    split: SplitDocument,
    /// What was left out.
    notes: Vec<String>,
    /// Not with `--quick`.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    content: Option<Content>,
}

#[derive(Serialize)]
struct ClassDocument {
    class: String,
    n: usize,
    train: usize,
    val: usize,
}

/// Who decides what validates: a folder, or share and seed.
#[derive(Serialize)]
#[serde(untagged)]
enum SplitDocument {
    Folder { folder: PathBuf },
    Drawn { share: f64, seed: u64 },
}

#[derive(Serialize)]
struct Content {
    /// Width and height; `None` where no picture can be read.
    sizes: Option<Sizes>,
    formats: BTreeMap<String, usize>,
    unreadable: Vec<Fault>,
    damaged: Vec<Fault>,
    duplicates: Vec<Duplicate>,
}

#[derive(Serialize)]
struct Sizes {
    smallest: [usize; 2],
    median: [usize; 2],
    largest: [usize; 2],
}

#[derive(Serialize)]
struct Fault {
    path: String,
    reason: String,
}

impl Document {
    fn new(dataset: &Dataset, inspection: Option<&Inspection>, share: f64, seed: u64) -> Self {
        let Dataset { root, classes, train, val, labels, val_folder, notes } = dataset;
        let mut counts = vec![[0_usize; 2]; classes.len()];
        for (part, items) in [train, val].into_iter().enumerate() {
            items.iter().for_each(|item| counts[item.class as usize][part] += 1);
        }
        let all = counts.iter().map(|[train, val]| train + val);
        let (largest, smallest) = (all.clone().max().unwrap_or(0), all.min().unwrap_or(0));
        Document {
            folder: root.clone(),
            labels: *labels,
            pictures: train.len() + val.len(),
            train: train.len(),
            val: val.len(),
            imbalance: largest as f64 / smallest.max(1) as f64,
            classes: classes
                .iter()
                .zip(&counts)
                .map(|(class, &[train, val])| ClassDocument { class: class.clone(), n: train + val, train, val })
                .collect(),
            split: match val_folder {
                Some(folder) => SplitDocument::Folder { folder: folder.clone() },
                None => SplitDocument::Drawn { share, seed },
            },
            notes: notes.clone(),
            content: inspection.map(Content::new),
        }
    }

    /// For people; lists are cut short unless `whole`.
    fn text(&self, whole: bool) -> String {
        let shown = if whole { usize::MAX } else { SHOWN };
        let labels = match self.labels {
            Labels::Folders => "a folder each",
            Labels::FileNames => "by the files' names",
            Labels::LabelFile => "by labels.csv",
        };
        let n = self.classes.len();
        let mut text = format!("{}: {} pictures of {n} classes, {labels}\n", self.folder.display(), self.pictures);
        let widest = self.classes.iter().map(|class| class.class.chars().count()).max().unwrap_or(0).max(5);
        let _ = writeln!(text, "\n{:widest$}  pictures   share    train      val", "class");
        for ClassDocument { class, n, train, val } in self.classes.iter().take(shown.max(50)) {
            let share = 100.0 * *n as f64 / self.pictures.max(1) as f64;
            let _ = writeln!(text, "{class:widest$}  {n:>8}  {share:>5.1}%  {train:>7}  {val:>7}");
        }
        if n > shown.max(50) {
            let _ = writeln!(text, ".. and {} more classes: -v lists all", n - shown.max(50));
        }
        let _ = writeln!(text);
        let balance = match self.imbalance {
            imbalance if imbalance < 1.5 => "the classes are about as large".to_string(),
            imbalance => format!(
                "the largest class has {imbalance:.1} times the pictures of the smallest; --balance loss or sample makes up for it"
            ),
        };
        let _ = writeln!(text, "balance: {balance}");
        let by = match &self.split {
            SplitDocument::Folder { folder } => format!("the latter those in {}", folder.display()),
            SplitDocument::Drawn { share, seed } => {
                format!("by --split {share} and --seed {seed}, the same on every machine")
            }
        };
        let _ = writeln!(text, "split: {} train, {} validate, {by}", self.train, self.val);
        if let Some(content) = &self.content {
            content.tell(&mut text, shown);
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        text
    }
}

impl Content {
    fn new(inspection: &Inspection) -> Content {
        let Inspection { sizes, formats, unreadable, damaged, duplicates } = inspection;
        let fault =
            |Skipped { relative, reason, .. }: &Skipped| Fault { path: relative.clone(), reason: reason.clone() };
        let sizes = sizes.first().zip(sizes.get(sizes.len() / 2)).zip(sizes.last());
        Content {
            sizes: sizes.map(|((&smallest, &median), &largest)| Sizes { smallest, median, largest }),
            formats: formats.clone(),
            unreadable: unreadable.iter().map(fault).collect(),
            damaged: damaged.iter().map(fault).collect(),
            duplicates: duplicates.clone(),
        }
    }

    fn tell(&self, text: &mut String, shown: usize) {
        if let Some(Sizes { smallest, median, largest }) = &self.sizes {
            let side = |[width, height]: &[usize; 2]| format!("{width} x {height}");
            let [smallest, median, largest] = [smallest, median, largest].map(side);
            let _ = writeln!(text, "sizes: {smallest} to {largest}, the median {median} (by the shorter side)");
        }
        let formats: Vec<String> = self.formats.iter().map(|(format, n)| format!("{n} {format}")).collect();
        let _ = writeln!(text, "formats: {}", if formats.is_empty() { "none".into() } else { formats.join(", ") });
        let told = |fault: &Fault| format!("{}: {}", fault.path, fault.reason);
        list(text, "unreadable, left out", self.unreadable.iter().map(told), shown);
        list(text, "damaged, used", self.damaged.iter().map(told), shown);
        let files = |duplicate: &Duplicate| {
            let labels = if duplicate.labels_differ { " (of different classes)" } else { "" };
            [&duplicate.train[..], &duplicate.val].concat().join(" = ") + labels
        };
        let leaks = |duplicate: &&Duplicate| !duplicate.train.is_empty() && !duplicate.val.is_empty();
        let (leaking, within): (Vec<_>, Vec<_>) = self.duplicates.iter().partition(leaks);
        list(text, "the same picture in training and validation", leaking.into_iter().map(files), shown);
        list(text, "the same picture twice on one side", within.into_iter().map(files), shown);
    }
}

/// A count, and the first of a list.
fn list(text: &mut String, what: &str, lines: impl ExactSizeIterator<Item = String>, shown: usize) {
    let n = lines.len();
    let _ = writeln!(text, "{what}: {}", if n == 0 { "none".into() } else { n.to_string() });
    for line in lines.take(shown) {
        let _ = writeln!(text, "  {}", convoy::error::escaped(&line));
    }
    if n > shown {
        let _ = writeln!(text, "  .. and {} more: -v lists all", n - shown);
    }
}
