//! `convoy bench --data`: how fast the pictures of a folder come, without a device.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::console::{self, Console, bytes};
use convoy::data::{LoaderOptions, Resize, ScanOptions, Speed, peak_memory, scan, speed};
use convoy::train::Settings;
use convoy::{Error, Result};

/// More are not looked at.
const MOST: usize = 4096;
/// To how many processors one is projected.
const PROCESSORS: usize = 16;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    folder: PathBuf,
    pictures: usize,
    height: usize,
    width: usize,
    batch: usize,
    workers: Vec<Speed>,
    /// Of the process.
    peak_memory_bytes: Option<u64>,
}

/// Measures, with the default preset's resizing to `size` = `[H, W]`, and prints.
///
/// # Errors
/// Those of the scan; when no picture can be read.
pub fn run(
    folder: PathBuf,
    size: [usize; 2],
    batch: usize,
    workers: &[usize],
    json: bool,
    console: &Console,
) -> Result<()> {
    let Settings { split, seed, .. } = Settings::merge([])?;
    let dataset = scan(&folder, &ScanOptions { split, seed, val: None, classes: None })?;
    let items = Arc::new(dataset.train.iter().take(MOST).cloned().collect::<Vec<_>>());
    if workers.contains(&0) {
        return Err(Error::input("--workers 0: expected 1 or more threads"));
    }
    let mut speeds = Vec::new();
    for &workers in workers {
        let options = LoaderOptions { batch, size, resize: Resize::ShorterSide, workers };
        speeds.push(speed(&items, &dataset.root, &options)?);
        console.detail(format_args!("{workers} workers done"))?;
    }
    let [height, width] = size;
    let peak_memory_bytes = peak_memory();
    let report = Report { folder, pictures: items.len(), height, width, batch, workers: speeds, peak_memory_bytes };
    match json {
        true => console::print_json(&report),
        false => console::print(text(&report).trim_end()),
    }
}

fn text(report: &Report) -> String {
    let Report { folder, pictures, height, width, batch, workers, peak_memory_bytes } = report;
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
    text
}
