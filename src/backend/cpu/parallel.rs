//! Element-wise loops over fixed chunks, on all threads of the pool.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::simd::{each, vectorised};

/// Elements of one task: large against a task's cost (about a microsecond), small against a core's L2 cache.
pub(super) const CHUNK: usize = 1 << 14;

/// y[i] = f(x[i]).
pub(super) fn map(y: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32 + Sync) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| map_chunk(y, x, &f));
}

/// y[i] = f(a[i], b[i]).
pub(super) fn map2(y: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    let inputs = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
    y.par_chunks_mut(CHUNK).zip(inputs).for_each(|(y, (a, b))| map2_chunk(y, a, b, &f));
}

/// y[i] = value.
pub(super) fn fill(y: &mut [f32], value: f32) {
    y.par_chunks_mut(CHUNK).for_each(|y| y.fill(value));
}

/// The sum in f64, in an order that depends on the length only.
pub(super) fn sum(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(sum_chunk).collect();
    parts.iter().sum()
}

vectorised! {
    /// [`map`] on one thread.
    pub(super) fn map_chunk<F: Fn(f32) -> f32>(y: &mut [f32], x: &[f32], f: &F) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = f(x);
        }
    }
}

vectorised! {
    /// [`map2`] on one thread.
    pub(super) fn map2_chunk<F: Fn(f32, f32) -> f32>(y: &mut [f32], a: &[f32], b: &[f32], f: &F) {
        for (y, (&a, &b)) in y.iter_mut().zip(a.iter().zip(b)) {
            *y = f(a, b);
        }
    }
}

vectorised! {
    /// [`sum`] on one thread: eight running sums, added up at the end.
    pub(super) fn sum_chunk(x: &[f32]) -> f64 {
        let mut lanes = [0.0f64; 8];
        let (blocks, rest) = x.as_chunks::<8>();
        for block in blocks {
            each(&mut lanes, block, |lane, &x| *lane += x as f64);
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|&x| x as f64).sum::<f64>()
    }
}

/// Scratch memory cut into pieces, one for each thread: tasks borrow one while they run. Tasks must not wait for others (by
/// rayon's joins) while they hold a piece, else a thread could need two.
pub(super) struct Pieces<'a>(Mutex<Vec<&'a mut [f32]>>);

impl<'a> Pieces<'a> {
    /// `count` pieces of `len` elements.
    pub fn new(scratch: &'a mut [f32], len: usize, count: usize) -> Self {
        Pieces(Mutex::new(scratch.chunks_exact_mut(len.max(1)).take(count).collect()))
    }

    /// Runs `task` with a piece; `None` never happens while at most as many tasks run as there are pieces.
    pub fn with<R>(&self, task: impl FnOnce(&mut [f32]) -> R) -> R {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = lock().pop().expect("one piece of scratch memory for each thread");
        let result = task(piece);
        lock().push(piece);
        result
    }
}
