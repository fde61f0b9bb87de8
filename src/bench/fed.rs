//! Training steps on the pictures of a folder beside the same steps on pictures in memory: what the device waits for them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::{BenchOptions, Mode, Run, Work, median};
use crate::backend::Device;
use crate::data::{Item, Loader, LoaderOptions, PictureCache, Place, unlinked};
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::models::Model;

/// The three kinds take turns this often, each first in some, so that what else the machine does hits them alike.
const ROUNDS: usize = 12;

/// More batches than a step takes, so that in the last one there are still some to load.
const AHEAD: usize = 4;

/// Pictures a second that a training learns from, by where they come from; the median of rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Fed {
    /// Name of the device.
    pub adapter: String,
    /// Name of the model.
    pub model: String,
    /// Steps of each kind in a round.
    pub steps: usize,
    /// Made up, in memory.
    pub made_up_per_second: f64,
    /// Read and decoded meanwhile: a first epoch.
    pub decoded_per_second: f64,
    /// From the cache: later epochs.
    pub cached_per_second: f64,
    /// What part of the rate in memory each round's pictures came at that were decoded meanwhile.
    pub decoded: Share,
    /// The same of those from the cache.
    pub cached: Share,
}

/// Ratios of two rates that were measured one after the other, over all rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Share {
    /// The smallest.
    pub least: f64,
    /// The one in the middle.
    pub median: f64,
    /// The largest.
    pub most: f64,
}

impl Share {
    fn new(rates: &[f64], of: &[f64]) -> Share {
        let mut shares: Vec<f64> = rates.iter().zip(of).map(|(rate, of)| rate / of).collect();
        let median = median(&mut shares);
        Share { least: shares[0], median, most: shares[shares.len() - 1] }
    }
}

/// Times training steps of `model` on `items`, in the folder `root`. The cache is gone afterwards.
///
/// # Errors
/// Shape and device errors; when there is no room for the cache, or no picture can be read.
pub fn fed(
    device: &mut dyn Device,
    model: &Model,
    options: &BenchOptions,
    items: &[Item],
    root: &Path,
    loading: &LoaderOptions,
) -> Result<Fed> {
    let options = BenchOptions { mode: Mode::Train, ..options.clone() };
    let (warmup, batch) = (options.warmup.max(1), loading.batch);
    let Work { graph, outputs, inputs, .. } = Work::new(device, model, &options)?;
    let pictures = inputs[0].0;
    let mut run = Run { program: device.compile(&graph, &outputs)?, inputs, in_flight: Default::default() };

    // As many pictures as the steps of a round take and those that are loaded ahead of them, each of them once or, in a
    // small folder, in turns.
    let batches = warmup + options.steps + AHEAD;
    let order: Vec<usize> = (0..items.len()).cycle().take(batches * batch).collect();
    let items = Arc::new(items.to_vec());
    let home = tempfile::tempdir().map_err(Error::io("cannot make a temporary folder", &std::env::temp_dir()))?;
    let place = Place::Folder(home.path().into());
    let (cache, _) = PictureCache::open(&place, root, loading.size, loading.resize, items.len())?;
    let _home = unlinked(home);
    let decoded = Loader::new(items.clone(), loading.clone());
    let cached = Loader::with_cache(items, loading.clone(), Some(Arc::new(cache)));
    for batch in cached.epoch(order.clone(), 0) {
        cached.recycle(batch?);
    }
    let mut rates = [(); 3].map(|()| Vec::new());
    for round in 0..ROUNDS {
        for kind in (0..3).map(|turn| (round + turn) % 3) {
            let loader = [None, Some(&decoded), Some(&cached)][kind];
            let steps = run.rate(pictures, loader.map(|loader| (loader, &order)), warmup, options.steps)?;
            rates[kind].push(steps * batch as f64);
        }
    }
    let [in_memory, first, later] = &mut rates;
    Ok(Fed {
        adapter: device.info().name.clone(),
        model: model.name.clone(),
        steps: options.steps,
        decoded: Share::new(first, in_memory),
        cached: Share::new(later, in_memory),
        made_up_per_second: median(in_memory),
        decoded_per_second: median(first),
        cached_per_second: median(later),
    })
}

impl Run {
    /// Steps a second, after `warmup` others, on the inputs as they are or on a loader's pictures in this order.
    fn rate(
        &mut self,
        pictures: ValueId,
        from: Option<(&Loader, &Vec<usize>)>,
        warmup: usize,
        steps: usize,
    ) -> Result<f64> {
        let mut batches = from.map(|(loader, order)| (loader, loader.epoch(order.clone(), 0)));
        let mut started = Instant::now();
        for step in 0..warmup + steps {
            if step == warmup {
                self.wait(0)?;
                started = Instant::now();
            }
            match &mut batches {
                None => self.step(1)?,
                Some((loader, batches)) => {
                    let batch = batches.next().ok_or_else(|| Error::input("the loader has too few batches"))??;
                    self.program.write(pictures, &batch.pictures)?;
                    loader.recycle(batch);
                    self.submit(&[pictures], 1)?;
                }
            }
        }
        self.wait(0)?;
        Ok(steps as f64 / started.elapsed().as_secs_f64().max(1e-9))
    }
}
