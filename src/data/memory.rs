//! A bound on the memory that threads take at the same time.
//!
//! With what else a run holds, the pipeline stays below 512 MiB: files of at most [`MOST_OF_FILE`] bytes are read, [`FILES`] at a time or one
//! alone; pictures that take at most [`MOST_OF_PICTURE`] are decoded, [`PICTURES`] at a time or one alone.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of a file that is read.
pub(super) const MOST_OF_FILE: usize = 128 << 20;
/// Bytes of the files that are in memory at the same time.
const FILES: usize = 64 << 20;
/// Bytes that a picture may take to decode.
pub(super) const MOST_OF_PICTURE: usize = 320 << 20;
/// Bytes that decoding takes at the same time: a picture of 12 megapixels 48 MB.
const PICTURES: usize = 256 << 20;

/// What all threads together may take. Who takes of both takes of `files` first, so that no two wait for each other.
pub(super) struct Memory {
    /// For the bytes of files.
    pub files: Budget,
    /// For what decoding them takes.
    pub pictures: Budget,
}

impl Memory {
    pub fn new() -> Self {
        Memory { files: Budget::new(FILES), pictures: Budget::new(PICTURES) }
    }
}

/// Bytes that threads share. One that wants more than there are waits for the others; one that wants more than there can be works alone.
pub(super) struct Budget {
    all: usize,
    left: Mutex<usize>,
    changed: Condvar,
}

impl Budget {
    fn new(bytes: usize) -> Self {
        Budget { all: bytes, left: Mutex::new(bytes), changed: Condvar::new() }
    }

    /// Takes bytes until what it returns is dropped.
    pub fn take(&self, bytes: usize) -> Held<'_> {
        let bytes = bytes.min(self.all);
        let left = self.changed.wait_while(self.lock(), |left| *left < bytes);
        *left.unwrap_or_else(PoisonError::into_inner) -= bytes;
        Held { budget: self, bytes }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner) // a number is never half changed
    }
}

/// Bytes that were taken from a [`Budget`].
pub(super) struct Held<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *self.budget.lock() += self.bytes;
        self.budget.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_more_is_held_than_there_is() {
        let (budget, now, most) = (Budget::new(100), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (budget, now, most) = (&budget, &now, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        let bytes = [10, 45, 100, 1000][(thread + round) % 4];
                        let _held = budget.take(bytes);
                        most.fetch_max(
                            now.fetch_add(bytes.min(100), Ordering::SeqCst) + bytes.min(100),
                            Ordering::SeqCst,
                        );
                        now.fetch_sub(bytes.min(100), Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!((most.load(Ordering::SeqCst), *budget.lock()), (100, 100));
    }
}
