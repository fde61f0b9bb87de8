//! Worker threads that turn items into batches ahead of the training loop.
//!
//! Workers take the places of the epoch's order one by one, so that two threads share even the first batch, and put
//! each picture in its place: what comes out does not depend on how many there are or which is faster.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::cache::{Known, PictureCache};
use super::decode::Decoder;
use super::memory::Memory;
use super::pixels::Damage;
use super::rows::Rows;
use super::{Item, Resize};
use crate::error::{Error, Result};
use crate::ops::IGNORE;
use crate::tensor::{Data, Tensor};

/// Batches that workers may be ahead of the one that is being taken.
const BATCHES_AHEAD: usize = 2;
/// Bytes of pictures that workers may be ahead, if that is less: of large batches not even one.
const BYTES_AHEAD: usize = 64 << 20;

/// How a [`Loader`] makes batches.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Pictures of a batch, at least 1.
    pub batch: usize,
    /// `[H, W]` of the pictures.
    pub size: [usize; 2],
    /// How pictures are brought to that size.
    pub resize: Resize,
    /// Threads that read and decode, at least 1. Has no influence on the batches.
    pub workers: usize,
}

/// Pictures and labels of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// RGB pixels, u8 `[N, H, W, 3]`. Rows without a picture are zero.
    pub pictures: Tensor,
    /// Classes, u32 `[N]`. [`IGNORE`] in rows without a picture: those that fill up the last batch, and unreadable
    /// files.
    pub labels: Tensor,
    /// The item of each row; `None` where the last batch is filled up.
    pub items: Vec<Option<usize>>,
    /// Rows with a picture.
    pub count: usize,
}

impl Batch {
    /// Of each row, whether it has a picture.
    pub fn there(&self) -> impl Iterator<Item = bool> + '_ {
        self.labels.as_u32().unwrap_or_default().iter().map(|&label| label != IGNORE)
    }
}

/// A picture that could not be read, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its number among the loader's items.
    pub item: usize,
    /// Its path below the folder that was scanned.
    pub relative: String,
    /// Why, in a few words.
    pub reason: String,
}

/// Makes batches of items, epoch after epoch. An unreadable picture is tried once.
pub struct Loader {
    shared: Arc<Shared>,
}

impl Loader {
    /// A loader of `items`; nothing is read yet.
    pub fn new(items: Arc<Vec<Item>>, options: LoaderOptions) -> Self {
        Self::with_cache(items, options, None)
    }

    /// The same, with pictures that were decoded before in `cache`, which must be of the same size and [`Resize`].
    pub fn with_cache(items: Arc<Vec<Item>>, options: LoaderOptions, cache: Option<Arc<PictureCache>>) -> Self {
        let options = LoaderOptions { batch: options.batch.max(1), workers: options.workers.max(1), ..options };
        let known = items.iter().map(|_| Known::new()).collect();
        let memory = Memory::new();
        let (spares, skipped, damaged) = Default::default();
        Loader { shared: Arc::new(Shared { items, options, cache, known, memory, spares, skipped, damaged }) }
    }

    /// The batches of one epoch, whose pictures come in `order` (numbers of items), from batch number `first_batch` on.
    /// Threads start at once and end when the iterator is dropped.
    pub fn epoch(&self, order: Vec<usize>, first_batch: usize) -> Epoch {
        if let Some(cache) = &self.shared.cache {
            cache.refresh();
        }
        Epoch::start(self.shared.clone(), order, first_batch)
    }

    /// All pictures once, in the order of the items.
    pub fn batches(&self) -> Epoch {
        self.epoch((0..self.shared.items.len()).collect(), 0)
    }

    /// Takes the memory of a batch's pictures for a later batch. A batch that is dropped instead costs its pages: the system zeroes new
    /// ones for the next, which halves the rate at which two threads fill it.
    pub fn recycle(&self, batch: Batch) {
        let mut spares = locked(&self.shared.spares);
        if spares.len() < BATCHES_AHEAD {
            spares.extend(batch.pictures.into_u8());
        }
    }

    /// The pictures that could not be read so far, each once, in the order of the items.
    pub fn skipped(&self) -> Vec<Skipped> {
        self.told(&self.shared.skipped)
    }

    /// The pictures so far of which only a part could be read and is used, each once, in the order of the items.
    pub fn damaged(&self) -> Vec<Skipped> {
        self.told(&self.shared.damaged)
    }

    fn told<T: ToString>(&self, pictures: &Mutex<BTreeMap<usize, T>>) -> Vec<Skipped> {
        let relative = |item: usize| self.shared.items[item].relative.clone();
        let pictures = locked(pictures);
        pictures
            .iter()
            .map(|(&item, why)| Skipped { item, relative: relative(item), reason: why.to_string() })
            .collect()
    }
}

/// What the threads of all epochs share.
struct Shared {
    items: Arc<Vec<Item>>,
    options: LoaderOptions,
    cache: Option<Arc<PictureCache>>,
    /// Where each item is in the cache.
    known: Vec<Known>,
    memory: Memory,
    /// Memory of batches that are done with.
    spares: Mutex<Vec<Vec<u8>>>,
    skipped: Mutex<BTreeMap<usize, String>>,
    damaged: Mutex<BTreeMap<usize, Damage>>,
}

impl Shared {
    /// Puts the item's picture into `pixels`, `[H, W, 3]`; false if it cannot be read.
    fn picture(&self, index: usize, decoder: &mut Decoder, pixels: &mut [u8]) -> bool {
        if locked(&self.skipped).contains_key(&index) {
            return false;
        }
        let (item, known) = (&self.items[index], &self.known[index]);
        let kept = self.cache.as_ref().and_then(|cache| cache.get(item, known, pixels));
        let damage = match kept {
            Some(damage) => damage,
            None => match decoder.decode(&item.path, self.options.size, self.options.resize, pixels, &self.memory) {
                Ok(decoded) => {
                    if let (Some(cache), Some(metadata)) = (&self.cache, &decoded.metadata) {
                        cache.put(item, known, metadata, pixels, decoded.damage);
                    }
                    decoded.damage
                }
                Err(reason) => {
                    locked(&self.skipped).insert(index, reason);
                    pixels.fill(0);
                    return false;
                }
            },
        };
        if let Some(damage) = damage {
            locked(&self.damaged).insert(index, damage);
        }
        true
    }
}

/// The batches of one epoch, in order: an iterator.
pub struct Epoch {
    queue: Arc<Queue>,
    workers: Vec<JoinHandle<()>>,
    next_batch: usize,
    failure: Option<Error>,
}

impl Epoch {
    fn start(shared: Arc<Shared>, order: Vec<usize>, first_batch: usize) -> Self {
        let batch = shared.options.batch;
        let first = (first_batch * batch).min(order.len());
        let row = shared.options.size.iter().product::<usize>() * 3;
        let ahead = (BATCHES_AHEAD * batch).min(shared.options.workers.max(BYTES_AHEAD / row.max(1)));
        let state = State { next: first, limit: first + batch + ahead, batches: VecDeque::new(), closed: false };
        let (changed, count) = (Condvar::new(), shared.options.workers.min(order.len() - first));
        let queue = Arc::new(Queue { shared, order, row, state: Mutex::new(state), changed });
        let mut epoch = Epoch { queue, workers: Vec::with_capacity(count), next_batch: first_batch, failure: None };
        for _ in 0..count {
            let queue = epoch.queue.clone();
            match thread::Builder::new().name("loader".into()).spawn(move || queue.work()) {
                Ok(worker) => epoch.workers.push(worker),
                // With fewer threads the batches are the same, without any there are none.
                Err(_) if !epoch.workers.is_empty() => break,
                Err(error) => {
                    epoch.failure =
                        Some(Error::Io { action: "cannot start a loader thread", path: PathBuf::new(), source: error });
                    break;
                }
            }
        }
        epoch
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if let Some(failure) = self.failure.take() {
            self.next_batch = usize::MAX;
            return Some(Err(failure));
        }
        let batch = self.queue.shared.options.batch;
        let first = self.next_batch.saturating_mul(batch);
        if first >= self.queue.order.len() {
            return None;
        }
        self.next_batch += 1;
        Some(self.queue.take(first))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.queue.order.len().div_ceil(self.queue.shared.options.batch).saturating_sub(self.next_batch);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Epoch {}

impl Drop for Epoch {
    fn drop(&mut self) {
        locked(&self.queue.state).closed = true;
        self.queue.changed.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// The bounded queue between an epoch's workers and its iterator. Places are indices of `order`.
struct Queue {
    shared: Arc<Shared>,
    order: Vec<usize>,
    /// Bytes of a picture.
    row: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The next place that a worker takes.
    next: usize,
    /// Workers wait at this place until more batches have been taken.
    limit: usize,
    /// Batches that were begun and not yet taken, in order.
    batches: VecDeque<Building>,
    /// Nobody takes any more.
    closed: bool,
}

/// A batch that workers fill.
struct Building {
    /// Place of its first picture.
    first: usize,
    rows: Arc<Rows>,
    labels: Vec<u32>,
    /// Places that are still to be filled.
    left: usize,
}

impl Queue {
    /// A worker's life.
    fn work(&self) {
        let mut decoder = Decoder::default();
        while let Some((place, rows)) = self.next_place() {
            let index = self.order[place];
            let row = place % self.shared.options.batch;
            let there = rows.fill(row, |pixels| self.shared.picture(index, &mut decoder, pixels));
            drop(rows); // whoever takes the batch has it alone
            let label = if there { self.shared.items[index].class } else { IGNORE };
            self.filled(place, row, label);
        }
    }

    /// A place for a worker, and the batch that it is in.
    fn next_place(&self) -> Option<(usize, Arc<Rows>)> {
        let batch = self.shared.options.batch;
        let waits = |state: &mut State| !state.closed && state.next < self.order.len() && state.next >= state.limit;
        let state = locked(&self.state);
        let mut state = self.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        let place = state.next;
        if state.closed || place >= self.order.len() {
            return None;
        }
        state.next += 1;
        if state.batches.back().is_none_or(|last| place >= last.first + batch) {
            state.batches.push_back(Building {
                first: place,
                rows: Arc::new(Rows::new(batch, self.row, locked(&self.shared.spares).pop())),
                labels: vec![IGNORE; batch],
                left: batch.min(self.order.len() - place),
            });
        }
        state.batches.back().map(|last| (place, last.rows.clone()))
    }

    fn filled(&self, place: usize, row: usize, label: u32) {
        let mut state = locked(&self.state);
        let first = place - row;
        if let Some(building) = state.batches.iter_mut().find(|building| building.first == first) {
            building.labels[row] = label;
            building.left -= 1;
            if building.left == 0 {
                drop(state);
                self.changed.notify_all();
            }
        }
    }

    /// The batch whose first picture is at place `first`.
    fn take(&self, first: usize) -> Result<Batch> {
        let LoaderOptions { batch, size: [height, width], .. } = self.shared.options;
        let waits = |state: &mut State| !state.batches.front().is_some_and(|b| b.first == first && b.left == 0);
        let state = locked(&self.state);
        let mut state = self.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        let built = state.batches.pop_front();
        state.limit += batch;
        drop(state);
        self.changed.notify_all();
        let lost = || Error::input("a batch of pictures was lost");
        let Building { rows, labels, .. } = built.ok_or_else(lost)?;
        let pixels = Arc::into_inner(rows).ok_or_else(lost)?.into_bytes();
        let items = (first..first + batch).map(|place| self.order.get(place).copied()).collect();
        let count = labels.iter().filter(|&&label| label != IGNORE).count();
        let pictures = Tensor::new([batch, height, width, 3], Data::U8(pixels)).map_err(Error::input)?;
        let labels = Tensor::u32([batch], labels).map_err(Error::input)?;
        Ok(Batch { pictures, labels, items, count })
    }
}

/// Locks; a panic elsewhere leaves none of these values half changed.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
