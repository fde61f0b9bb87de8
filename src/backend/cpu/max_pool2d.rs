//! Max-pooling and its gradient, in the two steps of [`Windows`].

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use super::parallel::Pieces;
use super::simd::{LANES, Vector, lanes, load, starts, store, vectorised};
use super::windows::{Windows, by_stride, every};
use crate::ops::{MaxPool2d, MaxPool2dBackward};
use crate::tensor::TensorType;

impl CpuOp for MaxPool2d {
    fn scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        let windows = Windows::new(self.window(), &inputs[0].shape, &outputs[0].shape);
        threads * (windows.line() + windows.vectors())
    }

    fn run(&self, mut io: Io) {
        let (x, y) = (io.f32(0), io.output(0));
        let windows = Windows::new(self.window(), io.shape(0), io.output_shape(0));
        let ([h, w], [p, q]) = (windows.input, windows.output);
        let scratch = Pieces::new(io.scratch(), windows.line() + windows.vectors(), io.threads());
        y.par_chunks_mut(p * q).zip(x.par_chunks(h * w)).for_each(|(y, x)| {
            scratch.with(|scratch| {
                let (line, best) = scratch.split_at_mut(windows.line());
                line.fill(f32::NEG_INFINITY);
                for (i, y) in y.chunks_exact_mut(q).enumerate() {
                    let rows = windows.rows(i);
                    column_maxima(windows.columns(line), &x[rows.start * w..rows.end * w]);
                    maxima(best, line, self.kernel[1], self.stride[1]);
                    y.copy_from_slice(&best[..q]);
                }
            })
        });
    }
}

impl CpuOp for MaxPool2dBackward {
    fn scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        let windows = Windows::new(self.pool.window(), &inputs[0].shape, &inputs[1].shape);
        threads * 2 * (windows.line() + windows.vectors())
    }

    fn run(&self, mut io: Io) {
        let (x, dy, dx) = (io.f32(0), io.f32(1), io.output(0));
        let windows = Windows::new(self.pool.window(), io.shape(0), io.shape(1));
        let ([h, w], [p, q], stride, padding) =
            (windows.input, windows.output, self.pool.stride[1], self.pool.padding[1]);
        let scratch = Pieces::new(io.scratch(), 2 * (windows.line() + windows.vectors()), io.threads());
        let planes = x.par_chunks(h * w).zip(dy.par_chunks(p * q));
        dx.par_chunks_mut(h * w).zip(planes).for_each(|(dx, (x, dy))| {
            scratch.with(|scratch| {
                let (lines, winners) = scratch.split_at_mut(2 * windows.line());
                let (line, line_rows) = lines.split_at_mut(windows.line());
                let (winner_rows, winner_taps) = winners.split_at_mut(windows.vectors());
                line.fill(f32::NEG_INFINITY);
                line_rows.fill(NONE);
                dx.fill(0.0);
                for (i, dy) in dy.chunks_exact(q).enumerate() {
                    let rows = windows.rows(i);
                    let rows = rows.start * w..rows.end * w;
                    first_column_maxima(windows.columns(line), windows.columns(line_rows), &x[rows.clone()]);
                    first_maxima(winner_rows, winner_taps, line, line_rows, self.pool.kernel[1], stride);
                    let (dx, winners) = (&mut dx[rows], winner_rows.iter().zip(winner_taps.iter()));
                    for (j, (dy, (&row, &tap))) in dy.iter().zip(winners).enumerate() {
                        let column = |tap: usize| (j * stride + tap).saturating_sub(padding);
                        // Where all are -infinity: the first of them.
                        let place = if row == NONE { column(0) } else { whole(row) * w + column(whole(tap)) };
                        dx[place] += dy;
                    }
                }
            })
        });
    }
}

/// The number of a row where there is none: every element is -infinity. Numbers are f32 since the compiler needs vectors of one
/// type.
const NONE: f32 = -1.0;

/// A whole number from 0 to 2^23: the last bits of its sum with 2^23. (A cast would look out for all others.)
#[inline(always)]
fn whole(x: f32) -> usize {
    const SHIFT: f32 = (1 << 23) as f32;
    ((x + SHIFT).to_bits() - SHIFT.to_bits()) as usize
}

/// Whether `x` takes the place of the maximum so far: the first maximum stays, and NaN wins.
#[inline(always)]
#[allow(clippy::neg_cmp_op_on_partial_ord)] // what is no number is not lower
fn wins(x: f32, best: f32) -> bool {
    !(x <= best) & !best.is_nan()
}

vectorised! {
    /// best[j] = the maximum of column j of x, whose rows are as long as `best`.
    fn column_maxima(best: &mut [f32], x: &[f32]) {
        #[inline(always)]
        fn by<const N: usize>(best: &mut [f32], x: &[f32]) {
            for at in starts::<N>(best.len()) {
                let mut max = [f32::NEG_INFINITY; N];
                let mut place = at;
                while place < x.len() {
                    let x = load::<N>(&x[place..]);
                    max = lanes(0.0, |i| if wins(x[i], max[i]) { x[i] } else { max[i] });
                    place += best.len();
                }
                store(&mut best[at..], max);
            }
        }
        if best.len() < LANES { by::<1>(best, x) } else { by::<LANES>(best, x) }
    }
}

vectorised! {
    /// [`column_maxima`], and the number of the first row that has the maximum.
    fn first_column_maxima(best: &mut [f32], rows: &mut [f32], x: &[f32]) {
        #[inline(always)]
        fn by<const N: usize>(best: &mut [f32], rows: &mut [f32], x: &[f32]) {
            for at in starts::<N>(best.len()) {
                let (mut max, mut winner, mut row) = ([f32::NEG_INFINITY; N], [NONE; N], 0.0);
                let mut place = at;
                while place < x.len() {
                    let x = load::<N>(&x[place..]);
                    winner = lanes(0.0, |i| if wins(x[i], max[i]) { row } else { winner[i] });
                    max = lanes(0.0, |i| if wins(x[i], max[i]) { x[i] } else { max[i] });
                    place += best.len();
                    row += 1.0;
                }
                store(&mut best[at..], max);
                store(&mut rows[at..], winner);
            }
        }
        if best.len() < LANES { by::<1>(best, rows, x) } else { by::<LANES>(best, rows, x) }
    }
}

vectorised! {
    /// best[j] = the maximum of line[j * stride..][..kernel].
    fn maxima(best: &mut [f32], line: &[f32], kernel: usize, stride: usize) {
        #[inline(always)]
        fn by<const STRIDE: usize>(best: &mut [f32], line: &[f32], kernel: usize, stride: usize) {
            for (k, best) in best.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let mut max = [f32::NEG_INFINITY; LANES];
                for tap in 0..kernel {
                    let x = every::<STRIDE>(&line[k * LANES * stride + tap..], stride);
                    max = lanes(0.0, |i| if wins(x[i], max[i]) { x[i] } else { max[i] });
                }
                *best = max;
            }
        }
        by_stride!(stride, by(best, line, kernel, stride))
    }
}

vectorised! {
    /// Of each window `line[j * stride..][..kernel]` the largest; of equals that with the lowest of `rows`, then of taps: its row
    /// and tap.
    fn first_maxima(
        winner_rows: &mut [f32], winner_taps: &mut [f32], line: &[f32], rows: &[f32], kernel: usize, stride: usize,
    ) {
        #[inline(always)]
        fn by<const STRIDE: usize>(
            winner_rows: &mut [f32],
            winner_taps: &mut [f32],
            line: &[f32],
            rows: &[f32],
            kernel: usize,
            stride: usize,
        ) {
            let winners = winner_rows.as_chunks_mut::<LANES>().0.iter_mut().zip(winner_taps.as_chunks_mut::<LANES>().0);
            for (k, (winner_row, winner_tap)) in winners.enumerate() {
                let (mut max, mut row, mut tap) = ([f32::NEG_INFINITY; LANES], [NONE; LANES], [0.0; LANES]);
                let mut number = 0.0;
                for at in k * LANES * stride..k * LANES * stride + kernel {
                    let (x, r) = (every::<STRIDE>(&line[at..], stride), every::<STRIDE>(&rows[at..], stride));
                    let same = |i: usize| (x[i] == max[i]) | (x[i].is_nan() & max[i].is_nan());
                    let earlier = |i: usize| same(i) & (r[i] < row[i]) & (r[i] > NONE);
                    let takes: Vector = lanes(0.0, |i| if wins(x[i], max[i]) | earlier(i) { 1.0 } else { 0.0 });
                    max = lanes(0.0, |i| if takes[i] > 0.0 { x[i] } else { max[i] });
                    row = lanes(0.0, |i| if takes[i] > 0.0 { r[i] } else { row[i] });
                    tap = lanes(0.0, |i| if takes[i] > 0.0 { number } else { tap[i] });
                    number += 1.0;
                }
                (*winner_row, *winner_tap) = (row, tap);
            }
        }
        by_stride!(stride, by(winner_rows, winner_taps, line, rows, kernel, stride))
    }
}
