//! What a run does with its pictures beside training on them: looks whether they can be read, keeps them decoded, finds their mean and how
//! their colours vary, draws some.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::feed::{Feed, counter};
use super::run_folder::RunFolder;
use super::statistics::Statistics;
use super::{Event, Job};
use crate::backend::Device;
use crate::data::{Dataset, Loader, LoaderOptions, PictureCache, Place, decode};
use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::models;
use crate::ops::mix::PLAN;
use crate::report::Samples;
use crate::tensor::Tensor;

/// Pictures in samples.png.
const SAMPLES: usize = 32;

/// Whether a picture to train on and one to validate on can be read: with none an epoch would be spent before that shows.
pub(super) fn check_readable(job: &Job) -> Result<()> {
    let LoaderOptions { size, resize, .. } = job.loader_options(1);
    let Dataset { train, val, .. } = &job.dataset;
    for (pictures, what, advice) in [(train, "training", "other ones"), (val, "validation", "others by --val")] {
        let unreadable = pictures.iter().map_while(|item| Some((item, decode(&item.path, size, resize).err()?)));
        let unreadable: Vec<_> = unreadable.collect();
        if let [(item, why), ..] = &unreadable[..]
            && unreadable.len() == pictures.len()
        {
            return Err(Error::input(format!(
                "none of the {} {what} pictures can be read; the first, {}: {why}. Give {advice}",
                pictures.len(),
                item.path.display()
            )));
        }
    }
    Ok(())
}

/// The cache of decoded pictures that the settings ask for. One that cannot be had is an error only if they say where.
pub(super) fn picture_cache(
    job: &Job,
    folder: &mut RunFolder,
    observe: &mut dyn FnMut(&Event),
) -> Result<Option<Arc<PictureCache>>> {
    let Some(place) = job.settings.picture_cache() else { return Ok(None) };
    let LoaderOptions { size, resize, .. } = job.loader_options(1);
    let pictures = job.dataset.train.len() + job.dataset.val.len();
    match PictureCache::open(&place, &job.dataset.root, size, resize, pictures) {
        Ok((cache, note)) => {
            let others = if cache.adds() { "" } else { "; another process adds to it" };
            let file = cache.path().display();
            notice(folder, observe, format!("cache: {} decoded pictures in {file}{others}", cache.len()), false)?;
            note.map_or(Ok(()), |note| notice(folder, observe, note, true))?;
            Ok(Some(Arc::new(cache)))
        }
        Err(error) if place == Place::Own => {
            notice(folder, observe, format!("no cache of decoded pictures: {error}"), true)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What the settings want to know of all training pictures.
pub(super) fn statistics(
    job: &Job,
    loader: &Loader,
    stop: &AtomicBool,
    folder: &mut RunFolder,
    observe: &mut dyn FnMut(&Event),
) -> Result<Statistics> {
    let text = format!("looking at {} training pictures for their mean and their colours", job.dataset.train.len());
    notice(folder, observe, text, false)?;
    let statistics = Statistics::of(loader, job.loader_options(1).size, |_| !stop.load(Ordering::Relaxed))?;
    let statistics = statistics.ok_or(Error::Interrupted)?;
    let components = statistics.components;
    let length = |k: usize| (0..3).map(|c| components[c][k].powi(2)).sum::<f64>().sqrt();
    let (first, second, third) = (length(0), length(1), length(2));
    let text = format!("colours: variances {first:.4}, {second:.4}, {third:.4} along their principal components");
    notice(folder, observe, text, false)?;
    Ok(statistics)
}

/// Draws the first pictures of the first step as the network sees them: `samples.png`.
pub(super) fn save_samples(
    job: &Job,
    feed: &Feed,
    loader: &Loader,
    device: &mut dyn Device,
    folder: &RunFolder,
) -> Result<()> {
    let mut order = job.order(0);
    order.truncate(job.batch());
    let Some(batch) = loader.epoch(order, 0).next().transpose()? else { return Ok(()) };
    let options = job.build_options(job.batch());
    let view = models::view_graph(&job.model, &options)?;
    let mut program = device.compile(&view.graph, &[view.x])?;
    program.write(view.pictures, &batch.pictures)?;
    program.write(view.counter, &counter(job.settings.seed, 1)?)?;
    let numbers = batch.labels.as_u32().unwrap_or_default();
    let plan = feed.plan(1, numbers);
    if let (Some(input), Some(plan)) = (view.mixing, &plan) {
        program.write(input, &Tensor::f32([numbers.len(), PLAN], plan.numbers.clone()).map_err(Error::input)?)?;
    }
    let ticket = program.submit()?;
    let Some([x]) = program.outputs(ticket, true)?.map(<[Tensor; 1]>::try_from).and_then(Result::ok) else {
        return Err(Error::device("the device lost the pictures of a step"));
    };
    let class = |label: u32| job.dataset.classes.get(label as usize).map(String::as_str);
    let label = |row: usize| -> Option<String> {
        let own = class(numbers[row])?;
        let mixed = plan.as_ref().filter(|plan| plan.shares[row] < 1.0);
        let mixed = mixed.and_then(|plan| Some((100.0 * plan.shares[row], class(plan.others[row])?)));
        Some(mixed.map_or(own.into(), |(share, other)| format!("{share:.0}% {own}, {other}")))
    };
    let labels: Vec<Option<String>> = (0..numbers.len().min(SAMPLES)).map(label).collect();
    let samples = Samples {
        pictures: x.as_f32().unwrap_or_default(),
        size: options.network_size(&job.model),
        mean: options.mean,
        std: options.std,
        labels: labels.iter().map(Option::as_deref).collect(),
    };
    let png = samples.png()?;
    atomic::write(&folder.file("samples.png"), |writer| writer.write_all(&png))
}

/// Logs a line and tells the observer.
pub(super) fn notice(
    folder: &mut RunFolder,
    observe: &mut dyn FnMut(&Event),
    text: String,
    warning: bool,
) -> Result<()> {
    folder.log(&text)?;
    observe(&Event::Notice { text, warning });
    Ok(())
}
