//! How fast pictures come from their files, and from the cache, where no device makes them wait.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::{Item, Loader, LoaderOptions, PictureCache, Place};
use crate::error::{Error, Result};

/// Pictures a second with some number of threads.
#[derive(Clone, Debug, Serialize)]
pub struct Speed {
    /// Threads that decode or read.
    pub workers: usize,
    /// From the files: read, decoded, resized.
    pub decoded_per_second: f64,
    /// From the cache, in the second epoch.
    pub cached_per_second: f64,
}

/// Times an epoch of `items`, in the folder `root`, from their files, and one from a cache that is gone afterwards, with as many threads
/// as `options` say. A batch is copied into an upload buffer and done with: there is no device.
///
/// # Errors
/// When there is no room for the cache, or no picture can be read.
pub fn speed(items: &Arc<Vec<Item>>, root: &Path, options: &LoaderOptions) -> Result<Speed> {
    let home = tempfile::tempdir().map_err(Error::io("cannot make a temporary folder", &std::env::temp_dir()))?;
    let place = Place::Folder(home.path().into());
    let (cache, note) = PictureCache::open(&place, root, options.size, options.resize, items.len())?;
    if let Some(note) = note {
        return Err(Error::input(note));
    }
    let mut upload = vec![0; options.batch * options.size[0] * options.size[1] * 3];
    let mut epoch = |loader: &Loader| -> Result<f64> {
        let (started, mut pictures) = (Instant::now(), 0);
        for batch in loader.batches() {
            let batch = batch?;
            upload.copy_from_slice(batch.pictures.bytes());
            pictures += batch.count;
            loader.recycle(batch);
        }
        match (pictures, loader.skipped().first()) {
            (0, Some(first)) => {
                Err(Error::input(format!("no picture could be read; {}: {}", first.relative, first.reason)))
            }
            _ => Ok(pictures as f64 / started.elapsed().as_secs_f64().max(1e-9)),
        }
    };
    let decoded_per_second = epoch(&Loader::new(items.clone(), options.clone()))?;
    let cached = Loader::with_cache(items.clone(), options.clone(), Some(Arc::new(cache)));
    epoch(&cached)?; // fills it
    Ok(Speed { workers: options.workers, decoded_per_second, cached_per_second: epoch(&cached)? })
}

/// The most memory that the process has held so far, bytes; `None` on systems that do not say.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
