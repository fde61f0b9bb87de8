//! Max-pooling and its gradient.

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use super::padded::Padded;
use super::parallel::Pieces;
use super::simd::{LANES, lanes, vectorised};
use crate::ops::{MaxPool2d, MaxPool2dBackward};
use crate::tensor::TensorType;

impl CpuOp for MaxPool2d {
    fn scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        let window = padded(self, &inputs[0].shape, &outputs[0].shape);
        threads * (window.plane() + 2 * row(&window))
    }

    fn run(&self, mut io: Io) {
        let (x, y) = (io.f32(0), io.output(0));
        let window = padded(self, io.shape(0), io.output_shape(0));
        let ([h, w], [p, q]) = (window.input, window.output);
        let scratch = Pieces::new(io.scratch(), window.plane() + 2 * row(&window), io.threads());
        y.par_chunks_mut(p * q).zip(x.par_chunks(h * w)).for_each(|(y, x)| {
            scratch.with(|scratch| {
                let (best, padded) = scratch.split_at_mut(row(&window));
                window.spread(&mut padded[..window.plane()], x, f32::NEG_INFINITY);
                for (i, y) in y.chunks_exact_mut(q).enumerate() {
                    maxima(best, &padded[i * window.step()..], &window.taps);
                    y.copy_from_slice(&best[..q]);
                }
            })
        });
    }
}

impl CpuOp for MaxPool2dBackward {
    /// For each thread: padded planes of x and dx, and a row of winners.
    fn scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        let window = padded(&self.pool, &inputs[0].shape, &inputs[1].shape);
        threads * 2 * (window.plane() + row(&window))
    }

    fn run(&self, mut io: Io) {
        let (x, dy, dx) = (io.f32(0), io.f32(1), io.output(0));
        let window = padded(&self.pool, io.shape(0), io.shape(1));
        let ([h, w], [p, q]) = (window.input, window.output);
        let scratch = Pieces::new(io.scratch(), 2 * (window.plane() + row(&window)), io.threads());
        let planes = x.par_chunks(h * w).zip(dy.par_chunks(p * q));
        dx.par_chunks_mut(h * w).zip(planes).for_each(|(dx, (x, dy))| {
            scratch.with(|scratch| {
                let (padded_dx, scratch) = scratch.split_at_mut(window.plane());
                let (winners, padded_x) = scratch.split_at_mut(row(&window));
                window.spread(&mut padded_x[..window.plane()], x, f32::NEG_INFINITY);
                padded_dx.fill(0.0);
                for (i, dy) in dy.chunks_exact(q).enumerate() {
                    let start = i * window.step();
                    first_maxima(winners, &padded_x[start..], &window.taps);
                    for (j, (dy, &winner)) in dy.iter().zip(winners.iter()).enumerate() {
                        let none = winner < 0.0;
                        let tap = if none { window.first(i, j) } else { start + window.taps[winner as usize] + j };
                        padded_dx[tap] += dy;
                    }
                }
                window.collect(dx, padded_dx);
            })
        });
    }
}

/// The pool's window over planes of x that gives planes of y.
fn padded(pool: &MaxPool2d, x: &[usize], y: &[usize]) -> Padded {
    Padded::new([x[2], x[3]], [y[2], y[3]], pool.kernel, pool.stride, pool.padding, [1, 1])
}

/// Elements of an output row in whole vectors: short rows would else be spent on the rest. What lies beyond the row reads
/// beyond the window, at the end of the plane beyond that too, and is dropped.
fn row(window: &Padded) -> usize {
    window.output[1].next_multiple_of(LANES)
}

/// Whether `x` takes the place of the maximum so far: the first maximum stays, and NaN wins.
#[inline(always)]
fn wins(x: f32, best: f32) -> bool {
    (x > best) | (x.is_nan() & !best.is_nan())
}

vectorised! {
    /// best[j] = the maximum of x[tap + j] over the taps.
    fn maxima(best: &mut [f32], x: &[f32], taps: &[usize]) {
        for (k, best) in best.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut max = [f32::NEG_INFINITY; LANES];
            for &tap in taps {
                let x = &x[tap + k * LANES..][..LANES];
                max = lanes(0.0, |i| if wins(x[i], max[i]) { x[i] } else { max[i] });
            }
            *best = max;
        }
    }
}

vectorised! {
    /// The number of the first tap that has the maximum; -1 where every element is -infinity. As f32: then all vectors are
    /// of one type, which the compiler needs.
    fn first_maxima(winners: &mut [f32], x: &[f32], taps: &[usize]) {
        for (k, winners) in winners.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let (mut max, mut winner) = ([f32::NEG_INFINITY; LANES], [-1.0; LANES]);
            for (number, &tap) in taps.iter().enumerate() {
                let x = &x[tap + k * LANES..][..LANES];
                let number = number as f32;
                winner = lanes(0.0, |i| if wins(x[i], max[i]) { number } else { winner[i] });
                max = lanes(0.0, |i| if wins(x[i], max[i]) { x[i] } else { max[i] });
            }
            *winners = winner;
        }
    }
}
