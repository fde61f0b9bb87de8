//! `convoy bench --data`: how fast the pictures of a folder come, without a device and to one.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::console::{self, Console, bytes};
use convoy::backend::Device;
use convoy::bench::{BenchOptions, Fed, Share, fed};
use convoy::data::{Item, LoaderOptions, Resize, ScanOptions, Speed, peak_memory, scan, speed};
use convoy::models::Model;
use convoy::train::Settings;
use convoy::{Error, Result};

/// More are not looked at.
const MOST: usize = 4096;
/// To how many processors one is projected.
const PROCESSORS: usize = 16;

/// What was measured of a folder.
pub struct Measured {
    root: PathBuf,
    items: Arc<Vec<Item>>,
    report: Report,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    folder: PathBuf,
    pictures: usize,
    height: usize,
    width: usize,
    batch: usize,
    workers: Vec<Speed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<Fed>,
    /// Of the process, before any training.
    peak_memory_bytes: Option<u64>,
}

impl Measured {
    /// Measures, with the default preset's resizing to `size` = `[H, W]`.
    ///
    /// # Errors
    /// Those of the scan; when no picture can be read.
    pub fn new(
        folder: PathBuf,
        size: [usize; 2],
        batch: usize,
        workers: &[usize],
        console: &Console,
    ) -> Result<Measured> {
        let Settings { split, seed, .. } = Settings::merge([])?;
        let dataset = scan(&folder, &ScanOptions { split, seed, val: None, classes: None })?;
        let items = Arc::new(dataset.train.iter().take(MOST).cloned().collect::<Vec<_>>());
        if workers.contains(&0) {
            return Err(Error::input("--workers 0: expected 1 or more threads"));
        }
        let [height, width] = size;
        let mut speeds = Vec::new();
        for &workers in workers {
            speeds.push(speed(&items, &dataset.root, &options(size, batch, workers))?);
            console.detail(format_args!("{workers} workers done"))?;
        }
        let (pictures, peak_memory_bytes) = (items.len(), peak_memory());
        let report =
            Report { folder, pictures, height, width, batch, workers: speeds, training: None, peak_memory_bytes };
        Ok(Measured { root: dataset.root, items, report })
    }

    /// Trains on the pictures too.
    ///
    /// # Errors
    /// Shape and device errors.
    pub fn train(&mut self, device: &mut dyn Device, model: &Model, bench: &BenchOptions) -> Result<()> {
        let Report { height, width, batch, ref workers, .. } = self.report;
        let workers = workers.last().map_or(1, |speed| speed.workers);
        let loading = options([height, width], batch, workers);
        self.report.training = Some(fed(device, model, bench, &self.items, &self.root, &loading)?);
        Ok(())
    }

    /// Prints it all.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn print(&self, json: bool) -> Result<()> {
        match json {
            true => console::print_json(&self.report),
            false => console::print(text(&self.report).trim_end()),
        }
    }
}

fn options(size: [usize; 2], batch: usize, workers: usize) -> LoaderOptions {
    LoaderOptions { batch, size, resize: Resize::ShorterSide, workers }
}

fn text(report: &Report) -> String {
    let Report { folder, pictures, height, width, batch, workers, training, peak_memory_bytes } = report;
    let mut text = format!(
        "{}: {pictures} pictures to {height} x {width}, batch {batch}, no device\n\nworkers  decoded/s  cached/s\n",
        folder.display()
    );
    for Speed { workers, decoded_per_second, cached_per_second } in workers {
        let _ = writeln!(text, "{workers:>7}  {decoded_per_second:>9.0}  {cached_per_second:>8.0}");
    }
    if let Some(one) = workers.iter().min_by_key(|speed| speed.workers) {
        let per_worker = |speed: f64| speed / one.workers as f64 * PROCESSORS as f64;
        let (decoded, cached) = (per_worker(one.decoded_per_second), per_worker(one.cached_per_second));
        let _ = writeln!(
            text,
            "{PROCESSORS:>7}  {decoded:>9.0}  {cached:>8.0}  if each of {PROCESSORS} processors does as much as one does here"
        );
    }
    if let Some(peak) = peak_memory_bytes {
        let _ = writeln!(text, "\npeak memory of the process: {}", bytes(*peak));
    }
    if let Some(fed) = training {
        let Fed { adapter, model, steps, made_up_per_second, decoded_per_second, cached_per_second, decoded, cached } =
            fed;
        let _ = writeln!(text, "\ntraining {model} on {adapter}, {steps} steps at a time, in turns: pictures a second");
        let _ = writeln!(text, "{made_up_per_second:>9.1}           in memory");
        let fed =
            [("decoded as they come", decoded_per_second, decoded), ("from the cache", cached_per_second, cached)];
        for (from, rate, Share { least, median, most }) in fed {
            let [least, median, most] = [least, median, most].map(|share| 100.0 * share);
            let _ = writeln!(text, "{rate:>9.1}  {median:>5.1} %  {from} (rounds: {least:.1} to {most:.1} %)");
        }
    }
    text
}
