//! A bound on the memory that threads take at the same time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that threads share. One that wants more than there are waits for the others; one that wants more than there can be works alone.
pub(super) struct Budget {
    all: usize,
    left: Mutex<usize>,
    changed: Condvar,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Budget { all: bytes, left: Mutex::new(bytes), changed: Condvar::new() }
    }

    pub fn unlimited() -> Self {
        Budget::new(usize::MAX)
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
