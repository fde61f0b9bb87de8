//! What a run does with its pictures beside training on them: looks whether they can be read, keeps them decoded, finds how their colours
//! vary, draws some.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::components::components;
use super::position::Position;
use super::run_folder::RunFolder;
use super::{Event, Job};
use crate::backend::Device;
use crate::data::{Batch, Loader, LoaderOptions, PictureCache, Place, decode};
use crate::error::{Error, Result};
use crate::formats::{Checkpoint, atomic};
use crate::models;
use crate::ops::IGNORE;
use crate::report::Samples;
use crate::tensor::{Data, Tensor};

/// Pictures in samples.png.
const SAMPLES: usize = 32;

/// Whether a validation picture can be read: with none an epoch would be spent before that shows.
pub(super) fn check_validation(job: &Job) -> Result<()> {
    let (pictures, LoaderOptions { size, resize, .. }) = (&job.dataset.val, job.loader_options(1));
    let unreadable = pictures.iter().map_while(|item| decode(&item.path, size, resize).err().map(|why| (item, why)));
    let unreadable: Vec<_> = unreadable.collect();
    match &unreadable[..] {
        [(item, why), ..] if unreadable.len() == pictures.len() => Err(Error::input(format!(
            "none of the {} validation pictures can be read; the first, {}: {why}. Give others by --val",
            pictures.len(),
            item.path.display()
        ))),
        _ => Ok(()),
    }
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

/// The principal components of the training pictures' colours, as the run to go on with has them or from the pictures.
pub(super) fn principal_components(
    job: &Job,
    resumed: Option<&Checkpoint>,
    loader: &Loader,
    stop: &AtomicBool,
    folder: &mut RunFolder,
    observe: &mut dyn FnMut(&Event),
) -> Result<[[f64; 3]; 3]> {
    if let Some(known) = resumed.map(Position::restore).transpose()?.and_then(|position| position.components) {
        return Ok(known);
    }
    let text = format!("colours: looking at {} training pictures for --pca-jitter", job.dataset.train.len());
    notice(folder, observe, text, false)?;
    let components = components(loader, |_| !stop.load(Ordering::Relaxed))?.ok_or(Error::Interrupted)?;
    let deviation = |k: usize| (0..3).map(|c| components[c][k].powi(2)).sum::<f64>().sqrt();
    let (first, second, third) = (deviation(0), deviation(1), deviation(2));
    let text = format!("colours: deviations {first:.3}, {second:.3}, {third:.3} along their principal components");
    notice(folder, observe, text, false)?;
    Ok(components)
}

/// Draws the first pictures of the first step as the network sees them: `samples.png`.
pub(super) fn save_samples(job: &Job, loader: &Loader, device: &mut dyn Device, folder: &RunFolder) -> Result<()> {
    let mut order = job.order(0);
    order.truncate(job.batch());
    let Some(batch) = loader.epoch(order, 0).next().transpose()? else { return Ok(()) };
    let options = job.build_options(job.batch());
    let view = models::view_graph(&job.model, &options)?;
    let mut program = device.compile(&view.graph, &[view.x])?;
    program.write(view.pictures, &batch.pictures)?;
    program.write(view.counter, &counter(job.settings.seed, 1)?)?;
    let ticket = program.submit()?;
    let Some([x]) = program.outputs(ticket, true)?.map(<[Tensor; 1]>::try_from).and_then(Result::ok) else {
        return Err(Error::device("the device lost the pictures of a step"));
    };
    let classes = &job.dataset.classes;
    let label = |&label: &u32| classes.get(label as usize).map(String::as_str);
    let samples = Samples {
        pictures: x.as_f32().unwrap_or_default(),
        size: options.network_size(&job.model),
        mean: options.mean,
        std: options.std,
        labels: batch.labels.as_u32().unwrap_or_default().iter().take(SAMPLES).map(label).collect(),
    };
    let png = samples.png()?;
    atomic::write(&folder.file("samples.png"), |writer| writer.write_all(&png))
}

/// The random counter of a step.
pub(super) fn counter(seed: u64, step: u64) -> Result<Tensor> {
    Tensor::u32([4], vec![seed as u32, (seed >> 32) as u32, step as u32, 0]).map_err(Error::input)
}

/// The batch's pictures, those of rows without one again and again: batch normalisation sees every row, labelled or not, and
/// black ones would count as pictures.
pub(super) fn filled(batch: &Batch) -> Result<Tensor> {
    let (Data::U8(pixels), Data::U32(labels)) = (batch.pictures.data(), batch.labels.data()) else {
        return Err(Error::device("a batch has pictures of u8 and labels of u32"));
    };
    let size = pixels.len() / labels.len().max(1);
    let rows: Vec<usize> = (0..labels.len()).filter(|&row| labels[row] != IGNORE).collect();
    let mut others = rows.iter().cycle();
    let mut filled = pixels.clone();
    for row in (0..labels.len()).filter(|&row| labels[row] == IGNORE) {
        if let Some(&other) = others.next() {
            filled[row * size..][..size].copy_from_slice(&pixels[other * size..][..size]);
        }
    }
    Tensor::new(batch.pictures.shape().clone(), Data::U8(filled)).map_err(Error::input)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_a_picture_repeat_the_others() {
        let pixels = (0..5).flat_map(|row| [row; 3]).collect();
        let batch = Batch {
            pictures: Tensor::new([5, 1, 1, 3], Data::U8(pixels)).unwrap(),
            labels: Tensor::u32([5], vec![IGNORE, 7, IGNORE, 2, IGNORE]).unwrap(),
            items: vec![None; 5],
            count: 2,
        };
        // Rows 1 and 3 stay; the others are these in turn.
        assert_eq!(filled(&batch).unwrap().bytes(), [1, 1, 3, 3, 1].map(|row| [row; 3]).concat());
    }
}
