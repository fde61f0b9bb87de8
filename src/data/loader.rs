//! Worker threads that turn items into batches ahead of the training loop.
//!
//! Workers take the places of the epoch's order one by one, so that two threads share even the first batch, and put
//! each picture in its place: what comes out does not depend on how many there are or which is faster.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use super::{Item, Resize, decode};
use crate::error::{Error, Result};
use crate::ops::IGNORE;
use crate::tensor::Tensor;

/// Batches that workers may be ahead of the one that is being taken.
const BATCHES_AHEAD: usize = 2;
/// Decoded pictures that are kept for later epochs: 5,461 of 256 x 256.
const CACHE_BYTES: usize = 1 << 30;

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

/// A picture that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its number among the loader's items.
    pub item: usize,
    /// Its path below the folder that was scanned.
    pub relative: String,
    /// Why, in a few words.
    pub reason: String,
}

/// Makes batches of items, epoch after epoch. Decoded pictures stay in memory up to a limit, so that later epochs do
/// not decode them again.
pub struct Loader {
    shared: Arc<Shared>,
}

impl Loader {
    /// A loader of `items`; nothing is read yet.
    pub fn new(items: Arc<Vec<Item>>, options: LoaderOptions) -> Self {
        let options = LoaderOptions { batch: options.batch.max(1), workers: options.workers.max(1), ..options };
        let cache =
            Cache { pictures: items.iter().map(|_| OnceLock::new()).collect(), left: AtomicUsize::new(CACHE_BYTES) };
        Loader { shared: Arc::new(Shared { items, options, cache, skipped: Mutex::default() }) }
    }

    /// The batches of one epoch, whose pictures come in `order` (numbers of items), from batch number `first_batch` on.
    /// Threads start at once and end when the iterator is dropped.
    pub fn epoch(&self, order: Vec<usize>, first_batch: usize) -> Epoch {
        Epoch::start(self.shared.clone(), order, first_batch)
    }

    /// All pictures once, in the order of the items.
    pub fn batches(&self) -> Epoch {
        self.epoch((0..self.shared.items.len()).collect(), 0)
    }

    /// The pictures that could not be read so far, each once, in the order of the items.
    pub fn skipped(&self) -> Vec<Skipped> {
        let skipped = locked(&self.shared.skipped);
        let describe = |(&item, reason): (&usize, &String)| Skipped {
            item,
            relative: self.shared.items[item].relative.clone(),
            reason: reason.clone(),
        };
        skipped.iter().map(describe).collect()
    }
}

/// A decoded picture, u8 `[H, W, 3]`; `None` if it cannot be read.
type Picture = Option<Arc<Vec<u8>>>;

/// What the threads of all epochs share.
struct Shared {
    items: Arc<Vec<Item>>,
    options: LoaderOptions,
    cache: Cache,
    skipped: Mutex<BTreeMap<usize, String>>,
}

impl Shared {
    fn picture(&self, item: usize) -> Picture {
        if let Some(picture) = self.cache.pictures[item].get() {
            return picture.clone();
        }
        let picture = match decode(&self.items[item].path, self.options.size, self.options.resize) {
            Ok(pixels) => Some(Arc::new(pixels)),
            Err(reason) => {
                locked(&self.skipped).insert(item, reason);
                None
            }
        };
        self.cache.keep(item, &picture);
        picture
    }
}

/// Decoded pictures by item, and how many bytes may still be added.
struct Cache {
    pictures: Vec<OnceLock<Picture>>,
    left: AtomicUsize,
}

impl Cache {
    fn keep(&self, item: usize, picture: &Picture) {
        let bytes = picture.as_ref().map_or(0, |pixels| pixels.len());
        let reserved = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if reserved.is_ok() && self.pictures[item].set(picture.clone()).is_err() {
            self.left.fetch_add(bytes, Ordering::Relaxed); // another place of the order held the same item
        }
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
        let state =
            State { next: first, limit: first + (1 + BATCHES_AHEAD) * batch, ready: HashMap::new(), closed: false };
        let (changed, count) = (Condvar::new(), shared.options.workers.min(order.len() - first));
        let queue = Arc::new(Queue { shared, order, state: Mutex::new(state), changed });
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
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The next place that a worker takes.
    next: usize,
    /// Workers wait at this place until more batches have been taken.
    limit: usize,
    /// Pictures by place, decoded and not yet taken.
    ready: HashMap<usize, Picture>,
    /// Nobody takes any more.
    closed: bool,
}

impl Queue {
    /// A worker's life.
    fn work(&self) {
        while let Some(place) = self.next_place() {
            let picture = self.shared.picture(self.order[place]);
            locked(&self.state).ready.insert(place, picture);
            self.changed.notify_all();
        }
    }

    fn next_place(&self) -> Option<usize> {
        let waits = |state: &mut State| !state.closed && state.next < self.order.len() && state.next >= state.limit;
        let state = locked(&self.state);
        let mut state = self.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        if state.closed || state.next >= self.order.len() {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }

    fn picture_at(&self, place: usize) -> Picture {
        let state = locked(&self.state);
        let mut state = self
            .changed
            .wait_while(state, |state| !state.ready.contains_key(&place))
            .unwrap_or_else(PoisonError::into_inner);
        state.ready.remove(&place).flatten()
    }

    /// The batch whose first picture is at place `first`.
    fn take(&self, first: usize) -> Result<Batch> {
        let LoaderOptions { batch, size: [height, width], .. } = self.shared.options;
        let row = height * width * 3;
        let mut pixels = Vec::with_capacity(batch * row);
        let mut labels = vec![IGNORE; batch];
        let mut items = vec![None; batch];
        for (place, (label, item)) in (first..self.order.len()).zip(labels.iter_mut().zip(&mut items)) {
            let index = self.order[place];
            *item = Some(index);
            match self.picture_at(place) {
                Some(picture) => {
                    pixels.extend_from_slice(&picture);
                    *label = self.shared.items[index].class;
                }
                None => pixels.resize(pixels.len() + row, 0),
            }
        }
        pixels.resize(batch * row, 0);
        locked(&self.state).limit += batch;
        self.changed.notify_all();
        let count = labels.iter().filter(|&&label| label != IGNORE).count();
        let pictures = Tensor::new([batch, height, width, 3], crate::tensor::Data::U8(pixels)).map_err(Error::input)?;
        let labels = Tensor::u32([batch], labels).map_err(Error::input)?;
        Ok(Batch { pictures, labels, items, count })
    }
}

/// Locks; a panic elsewhere leaves none of these values half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Data;
    use image::{Rgb, RgbImage};
    use std::fs;
    use tempfile::TempDir;

    /// `n` grey pictures of value = number, class = number % 2, and the folder they are in.
    fn pictures(n: usize) -> (TempDir, Arc<Vec<Item>>) {
        let dir = tempfile::tempdir().unwrap();
        let item = |i: usize| {
            let relative = format!("{i}.png");
            let path = dir.path().join(&relative);
            RgbImage::from_pixel(5, 4, Rgb([i as u8; 3])).save(&path).unwrap();
            Item { path, relative, class: (i % 2) as u32 }
        };
        let items = (0..n).map(item).collect();
        (dir, Arc::new(items))
    }

    fn loader(items: &Arc<Vec<Item>>, workers: usize) -> Loader {
        let options = LoaderOptions { batch: 4, size: [2, 3], resize: Resize::Stretch, workers };
        Loader::new(items.clone(), options)
    }

    fn batches(loader: &Loader, order: &[usize], first: usize) -> Vec<Batch> {
        loader.epoch(order.to_vec(), first).collect::<Result<_>>().unwrap()
    }

    fn labels(batch: &Batch) -> &[u32] {
        match batch.labels.data() {
            Data::U32(labels) => labels,
            _ => panic!("labels are u32"),
        }
    }

    #[test]
    fn batches_follow_the_order_and_the_last_is_filled_up() {
        let (_dir, items) = pictures(6);
        let batches = batches(&loader(&items, 2), &[5, 4, 3, 2, 1, 0], 0);
        assert_eq!(batches.len(), 2);
        assert_eq!(&batches[0].pictures.shape()[..], [4, 2, 3, 3]);
        let row: Vec<u8> = batches[0].pictures.bytes().chunks(18).map(|row| row[0]).collect();
        assert_eq!((row, labels(&batches[0]), batches[0].count), (vec![5, 4, 3, 2], &[1, 0, 1, 0][..], 4));
        assert_eq!(batches[1].items, [Some(1), Some(0), None, None]);
        assert_eq!((labels(&batches[1]), batches[1].count), (&[1, 0, IGNORE, IGNORE][..], 2));
        assert!(batches[1].pictures.bytes()[2 * 18..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn workers_and_the_cache_have_no_influence() {
        let (_dir, items) = pictures(50);
        let order: Vec<usize> = (0..50).map(|i| i * 7 % 50).collect();
        let expected = batches(&loader(&items, 1), &order, 0);
        for workers in [2, 3, 16] {
            let loader = loader(&items, workers);
            for _epoch in 0..2 {
                assert_eq!(batches(&loader, &order, 0), expected);
            }
            assert_eq!(batches(&loader, &order, 5), expected[5..]);
        }
        assert!(batches(&loader(&items, 2), &order, 13).is_empty());
        assert!(batches(&loader(&items, 2), &[], 0).is_empty());
    }

    #[test]
    fn unreadable_pictures_are_skipped_and_remembered_once() {
        let (_dir, items) = pictures(8);
        fs::write(&items[6].path, "").unwrap();
        fs::write(&items[1].path, "Hello").unwrap();
        let loader = loader(&items, 3);
        let order: Vec<usize> = (0..8).collect();
        for _epoch in 0..2 {
            let batches = batches(&loader, &order, 0);
            assert_eq!((labels(&batches[0]), labels(&batches[1])), (&[0, IGNORE, 0, 1][..], &[0, 1, IGNORE, 1][..]));
            assert_eq!((batches[0].items[1], batches[0].count), (Some(1), 3));
            assert_eq!(&batches[0].pictures.bytes()[18..36], [0; 18]);
        }
        let skipped: Vec<_> = loader.skipped().into_iter().map(|s| (s.item, s.relative, s.reason)).collect();
        let hello = "not a picture: begins with 'Hello'";
        assert_eq!(skipped, [(1, "1.png".into(), hello.into()), (6, "6.png".into(), "empty file".into())]);
    }

    #[test]
    fn a_full_cache_changes_nothing() {
        let (_dir, items) = pictures(10);
        let loader = loader(&items, 2);
        loader.shared.cache.left.store(3 * 18, Ordering::Relaxed);
        let order: Vec<usize> = (0..10).collect();
        assert_eq!(batches(&loader, &order, 0), batches(&loader, &order, 0));
        assert_eq!(loader.shared.cache.pictures.iter().filter(|picture| picture.get().is_some()).count(), 3);
    }

    #[test]
    fn the_queue_is_bounded_and_ends_when_dropped() {
        let (_dir, items) = pictures(40);
        let loader = loader(&items, 2);
        let mut epoch = loader.epoch((0..40).collect(), 0);
        assert_eq!(epoch.len(), 10);
        assert!(epoch.next().is_some_and(|batch| batch.is_ok()));
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(locked(&epoch.queue.state).next, 16); // one batch taken, three at most in the queue
        let queue = Arc::downgrade(&epoch.queue);
        drop(epoch);
        assert!(queue.upgrade().is_none(), "a worker still holds the queue");
    }
}
