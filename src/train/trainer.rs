//! The loop: epochs of steps, an evaluation and a checkpoint at the end of each, and the same bits whether a run was interrupted or not.
//!
//! What a step sees is a function of (seed, epoch, step): the order of the pictures is a Philox permutation, the random counter and the
//! learning rate follow the step. So the state of a run is the weights, the optimizer's state and a [`Position`].

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::feed::Feed;
use super::metrics::{ByClass, Means, Tally, labelled_rows, score};
use super::pictures::{check_readable, notice, picture_cache, save_samples, statistics};
use super::position::Position;
use super::run_folder::{MetricsRow, RunFolder};
use super::schedule::Schedule;
use super::{Event, Job, Outcome, Stopped, lost_classes, state};
use crate::backend::{Device, Program, Ticket};
use crate::classifier::Evaluator;
use crate::data::{Batch, Item, Loader, PictureCache, Skipped};
use crate::error::{Error, Result};
use crate::formats::Checkpoint;
use crate::models::{OptimizerConfig, TrainGraph};
use crate::tensor::Tensor;

/// Steps that may be in flight: while the host reads one, the device has the next. More would only tell losses late, and make an
/// interruption wait for them.
const IN_FLIGHT: usize = 2;

/// Trains until the epochs or steps are done, patience is lost, or `stop` is set; a run that is stopped is saved and can be resumed.
/// `observe` is told what happens as it happens.
///
/// # Errors
/// [`Error::NotFinite`] when the loss is not a number (the checkpoints of before remain); device, file and input errors.
pub fn train(
    job: Job,
    resumed: Option<Checkpoint>,
    device: &mut dyn Device,
    folder: &mut RunFolder,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(&Event),
) -> Result<Outcome> {
    Run::new(job, resumed, device, folder, stop, observe)?.run()
}

/// A submitted step whose loss has not been read.
struct Pending {
    ticket: Ticket,
    labels: Tensor,
    /// Pictures that could be read.
    pictures: usize,
    step: u64,
}

struct Run<'a> {
    job: Job,
    device: &'a mut dyn Device,
    folder: &'a mut RunFolder,
    stop: &'a AtomicBool,
    observe: &'a mut dyn FnMut(&Event),
    graph: TrainGraph,
    program: Box<dyn Program>,
    optimizer: OptimizerConfig,
    schedule: Schedule,
    loader: Loader,
    feed: Feed,
    cache: Option<Arc<PictureCache>>,
    /// Pictures that were told to be damaged.
    damaged: HashSet<String>,
    evaluator: Evaluator,
    validation: Loader,
    position: Position,
    pending: VecDeque<Pending>,
    /// Seconds of the run before this process.
    earlier: f64,
    started: Instant,
    /// When this process began the epoch.
    epoch_started: Instant,
    /// Pictures of its steps since then.
    epoch_pictures: usize,
}

impl<'a> Run<'a> {
    fn new(
        mut job: Job,
        resumed: Option<Checkpoint>,
        device: &'a mut dyn Device,
        folder: &'a mut RunFolder,
        stop: &'a AtomicBool,
        observe: &'a mut dyn FnMut(&Event),
    ) -> Result<Run<'a>> {
        check_readable(&job)?;
        let cache = picture_cache(&job, folder, observe)?;
        let loader = |job: &Job, items: &Arc<Vec<Item>>, batch| {
            Loader::with_cache(items.clone(), job.loader_options(batch), cache.clone())
        };
        let training = loader(&job, &job.dataset.train, job.batch());
        let known = resumed.as_ref().map(|last| Position::restore(&last.extra)).transpose()?;
        let (components, wanted) = (known.and_then(|position| position.components), job.settings.pca_jitter > 0.0);
        let mut mean_image = None;
        if (wanted && components.is_none()) || (job.settings.mean_image && resumed.is_none()) {
            let found = statistics(&job, &training, stop, folder, observe)?;
            (job.components, mean_image) = (found.components, Some(found.mean_image));
        }
        job.components = components.unwrap_or(job.components);
        let settings = &job.settings;
        let optimizer = job.optimizer();
        let graph = job.train_graph()?;
        let mut position = match resumed {
            Some(checkpoint) => state::restore(device, checkpoint, &graph, &job)?,
            None => state::initialise(device, &graph, &job, mean_image.as_ref())?,
        };
        let program = device.compile(&graph.graph, &[graph.loss, graph.logits])?;
        program.refused().iter().try_for_each(|text| notice(folder, observe, text.clone(), true))?;
        // A batch of two, the tutorial's, would waste the device in evaluation.
        let batch = job.batch().max(32).min(job.dataset.val.len());
        let evaluator = Evaluator::new(device, &job.model, &job.build_options(batch))?;
        position.components = (settings.pca_jitter > 0.0).then_some(job.components);
        Ok(Run {
            schedule: Schedule::new(settings, job.steps_per_epoch()),
            validation: loader(&job, &job.dataset.val, batch),
            loader: training,
            feed: Feed::new(&job),
            earlier: folder.seconds(),
            started: Instant::now(),
            epoch_started: Instant::now(),
            epoch_pictures: 0,
            pending: VecDeque::new(),
            cache,
            damaged: HashSet::new(),
            job,
            device,
            folder,
            stop,
            observe,
            graph,
            program,
            optimizer,
            evaluator,
            position,
        })
    }

    fn run(mut self) -> Result<Outcome> {
        if self.position.step == 0 {
            save_samples(&self.job, &self.feed, &self.loader, self.device, self.folder)?;
        }
        let stopped = loop {
            if let Some(reason) = self.finished() {
                break reason;
            }
            self.steps_of_epoch()?;
            let whole = self.step_in_epoch() == self.job.steps_per_epoch();
            let val = match self.stopping() {
                true => None,
                // The steps are done and stay done, whatever keeps their end from being evaluated.
                false => self.evaluate().or_else(|error| self.save_last().and(Err(error)))?,
            };
            match val {
                Some(val) if whole => {
                    self.end_epoch(val)?;
                    self.save_last()?;
                }
                Some(val) => {
                    // Stopped by max_steps within an epoch: told, but not counted, for a longer run would not have looked here.
                    self.record(val, self.lr(), false)?;
                    if self.position.best.is_none() {
                        self.save_best(self.position.epochs + 1, val.means.top1)?;
                    }
                    self.save_last()?;
                    break Stopped::Steps;
                }
                None => {
                    self.save_skipped()?;
                    self.save_last()?;
                    break Stopped::Interrupted;
                }
            }
        };
        let lost = self.lost_classes();
        Ok(Outcome { stopped, step: self.position.step, best: self.position.best.clone(), lost })
    }

    /// Why there is nothing more to do, if so. An epoch whose steps are done still wants its end.
    fn finished(&self) -> Option<Stopped> {
        let settings = &self.job.settings;
        let ended = self.position.epochs >= settings.epochs;
        let patience = settings.patience > 0 && self.position.since_best >= settings.patience;
        let due = self.step_in_epoch() == self.job.steps_per_epoch();
        let steps = settings.max_steps.is_some_and(|max| self.position.step >= max) && !due;
        match (ended, patience, steps) {
            (true, ..) => Some(Stopped::Epochs),
            (_, true, _) => Some(Stopped::Patience),
            (.., true) => Some(Stopped::Steps),
            _ => None,
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Steps of the running epoch that are done.
    fn step_in_epoch(&self) -> u64 {
        self.position.step - self.position.epochs as u64 * self.job.steps_per_epoch()
    }

    /// Runs the epoch's remaining steps, or those up to `max_steps` or the interruption; none is in flight afterwards.
    fn steps_of_epoch(&mut self) -> Result<()> {
        let first = self.step_in_epoch();
        (self.epoch_started, self.epoch_pictures) = (Instant::now(), 0);
        if first == self.job.steps_per_epoch() {
            return Ok(());
        }
        (self.observe)(&Event::Started {
            epoch: self.position.epochs + 1,
            epochs: self.job.settings.epochs,
            done: first,
            iterations: self.job.steps_per_epoch(),
        });
        let order = self.job.order(self.position.epochs as u32);
        let batches = self.loader.epoch(order, first as usize);
        for batch in batches {
            if self.stopping() {
                break;
            }
            self.submit(batch?)?;
            self.read(IN_FLIGHT)?;
            if self.job.settings.max_steps == Some(self.position.step) {
                break;
            }
        }
        self.read(0)
    }

    fn submit(&mut self, batch: Batch) -> Result<()> {
        let step = self.position.step + 1;
        if batch.count == 0 {
            // None of its pictures could be read: a step that learns nothing, and may not decay the weights either.
            self.position.step = step;
            return Ok(());
        }
        let lr = self.schedule.lr(step, self.position.plateau.drops);
        let schedule = self.optimizer.schedule(lr, step);
        self.feed.write(&mut *self.program, &self.graph, &batch, step)?;
        self.program.write(self.graph.schedule, &Tensor::f32([4], schedule.to_vec()).map_err(Error::input)?)?;
        let ticket = self.program.submit()?;
        self.position.step = step;
        self.pending.push_back(Pending { ticket, labels: batch.labels.clone(), pictures: batch.count, step });
        self.loader.recycle(batch);
        Ok(())
    }

    /// Takes in every step that is done, the oldest first; waits only until no more than `most` are in flight.
    fn read(&mut self, most: usize) -> Result<()> {
        while let Some(oldest) = self.pending.front() {
            let wait = self.pending.len() > most;
            let Some(outputs) = self.program.outputs(oldest.ticket, wait)? else { break };
            if let Some(step) = self.pending.pop_front() {
                self.take_in(step, &outputs)?;
            }
        }
        Ok(())
    }

    /// Counts a step's loss and logits, and tells of them.
    fn take_in(&mut self, Pending { labels, pictures, step, .. }: Pending, outputs: &[Tensor]) -> Result<()> {
        let [loss, logits] = outputs else {
            return Err(Error::device("the device lost the outputs of a step"));
        };
        let loss = loss.as_f32().and_then(|values| values.first().copied()).unwrap_or(f32::NAN);
        if !loss.is_finite() {
            return Err(Error::NotFinite { loss, step });
        }
        self.position.tally.add_batch(loss, logits, &labels);
        self.epoch_pictures += pictures;
        let before = self.position.epochs as u64 * self.job.steps_per_epoch();
        let event = Event::Step {
            epoch: self.position.epochs + 1,
            epochs: self.job.settings.epochs,
            iteration: step - before,
            iterations: self.job.steps_per_epoch(),
            loss,
            means: self.position.tally.means(),
            images_per_second: self.images_per_second(),
        };
        (self.observe)(&event);
        Ok(())
    }

    /// Training pictures a second in this epoch and process, of the steps whose loss was read.
    fn images_per_second(&self) -> f64 {
        self.epoch_pictures as f64 / self.epoch_started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Means over the validation pictures; `None` when interrupted.
    fn evaluate(&mut self) -> Result<Option<Validated>> {
        let training_speed = self.images_per_second();
        let started = Instant::now();
        let pictures = self.job.dataset.val.len();
        let (mut tally, mut by_class, mut done) = (Tally::default(), ByClass::new(self.job.dataset.classes.len()), 0);
        let (stop, observe, validation) = (self.stop, &mut self.observe, &self.validation);
        let complete = self.evaluator.run(validation.batches(), |batch, logits| {
            for (row, label) in labelled_rows(logits, &batch.labels) {
                let scored = score(row, label);
                tally.add(scored);
                by_class.add(label, scored.predicted);
            }
            done += batch.items.iter().flatten().count();
            validation.recycle(batch);
            observe(&Event::Validating { done, pictures });
            !stop.load(Ordering::Relaxed)
        })?;
        self.save_skipped()?;
        if !complete {
            return Ok(None);
        }
        if tally.n == 0 {
            return Err(Error::input("no validation picture could be read: see skipped.csv"));
        }
        let means = tally.means();
        if !means.loss.is_finite() {
            return Err(Error::NotFinite { loss: means.loss as f32, step: self.position.step });
        }
        let speed = tally.n as f64 / started.elapsed().as_secs_f64().max(1e-9);
        Ok(Some(Validated { means, tells_apart: by_class.tells_apart(), speed, training_speed }))
    }

    fn lr(&self) -> f64 {
        self.schedule.lr(self.position.step, self.position.plateau.drops)
    }

    /// Writes the rows of the epoch so far, trained with rate `lr`, and tells the observer.
    fn record(&mut self, val: Validated, lr: f64, best: bool) -> Result<()> {
        let (epoch, step) = (self.position.epochs + 1, self.position.step);
        let seconds = self.earlier + self.started.elapsed().as_secs_f64();
        let train = self.position.tally.means();
        let row =
            |split, means, images_per_second| MetricsRow { epoch, step, split, means, lr, images_per_second, seconds };
        self.folder.add_metrics(&[row("train", train, val.training_speed), row("val", val.means, val.speed)])?;
        let Means { loss, top1, .. } = val.means;
        self.folder.log(&format!(
            "epoch {epoch} step {step}: train loss {:.4} top-1 {:.4}, val loss {loss:.4} top-1 {top1:.4}{}, lr {lr:.3e}, {:.1} pictures/s",
            train.loss, train.top1, if best { " (best)" } else { "" }, val.training_speed
        ))?;
        (self.observe)(&Event::Validated { epoch, means: val.means, best });
        Ok(())
    }

    /// What an epoch's end changes: the best weights, the plateau, patience, the position.
    fn end_epoch(&mut self, val: Validated) -> Result<()> {
        let epoch = self.position.epochs + 1;
        // What the epoch was trained with, before it may end a plateau.
        let lr = self.lr();
        let better = self.position.observe(epoch, val.means.top1, val.tells_apart, self.job.settings.lr_patience);
        self.record(val, lr, better)?;
        if better {
            self.save_best(epoch, val.means.top1)?;
        }
        let train = std::mem::take(&mut self.position.tally).means();
        self.position.epochs = epoch;
        (self.observe)(&Event::Epoch {
            epoch,
            epochs: self.job.settings.epochs,
            means: train,
            images_per_second: val.training_speed,
        });
        Ok(())
    }

    /// Writes the weights, with what a user of them must know.
    fn save_best(&mut self, epoch: usize, top1: f64) -> Result<()> {
        let (checkpoint, path) = (self.job.checkpoint(epoch, Some(top1)), self.folder.file("best.safetensors"));
        state::save(self.device, &self.graph, &checkpoint, &path, self.position.step, false)
    }

    /// Writes weights, optimizer state and position: all that the rest of the run depends on.
    fn save_last(&mut self) -> Result<()> {
        let mut checkpoint = self.job.checkpoint(self.position.epochs, None);
        self.position.store(&mut checkpoint)?;
        let path = self.folder.file("last.safetensors");
        state::save(self.device, &self.graph, &checkpoint, &path, self.position.step, true)
    }

    /// Names pictures that could not be read, once, and keeps `skipped.csv` complete.
    fn save_skipped(&mut self) -> Result<()> {
        let skipped = [self.loader.skipped(), self.validation.skipped()].concat();
        let new = skipped.iter().filter(|picture| !self.folder.has_skipped(&picture.relative));
        for picture in new.cloned().collect::<Vec<_>>() {
            let Skipped { relative, reason, .. } = picture;
            self.folder.log(&format!("skipped {relative}: {reason}"))?;
            (self.observe)(&Event::Skipped { relative, reason });
        }
        self.folder.add_skipped(skipped.into_iter().map(|picture| (picture.relative, picture.reason)))?;
        for picture in [self.loader.damaged(), self.validation.damaged()].concat() {
            if self.damaged.insert(picture.relative.clone()) {
                notice(self.folder, self.observe, format!("{}: {}", picture.relative, picture.reason), true)?;
            }
        }
        match self.cache.as_ref().and_then(|cache| cache.take_failure()) {
            Some(failure) => notice(self.folder, self.observe, failure, true),
            None => Ok(()),
        }
    }

    fn lost_classes(&self) -> Option<String> {
        let dataset = &self.job.dataset;
        let skipped = |item: &Item| self.folder.has_skipped(&item.relative);
        let of_all = lost_classes(&dataset.classes, dataset.train.iter().chain(&*dataset.val), skipped);
        // Where many others validate, a class may lose all that was there to learn it from.
        of_all.or_else(|| lost_classes(&dataset.classes, dataset.train.iter(), skipped))
    }
}

/// Result of an evaluation within a run.
#[derive(Clone, Copy)]
struct Validated {
    means: Means,
    /// See [`ByClass::tells_apart`].
    tells_apart: bool,
    /// Pictures a second in evaluation.
    speed: f64,
    /// Pictures a second in the training before it.
    training_speed: f64,
}

#[cfg(test)]
mod tests;
