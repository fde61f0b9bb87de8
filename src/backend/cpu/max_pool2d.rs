//! Max-pooling and its gradient: along each row of the picture the largest of each window's part in it, then of these the largest
//! down the window. Of equals that is the first in the order of rows, then of columns; NaN is larger than any number.

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
        threads * (windows.line() + windows.parts())
    }

    fn run(&self, mut io: Io) {
        let (x, y) = (io.f32(0), io.output(0));
        let windows = Windows::new(self.window(), io.shape(0), io.output_shape(0));
        let ([h, w], [p, q]) = (windows.input, windows.output);
        let scratch = Pieces::new(io.scratch(), windows.line() + windows.parts(), io.threads());
        y.par_chunks_mut(p * q).zip(x.par_chunks(h * w)).for_each(|(y, x)| {
            scratch.with(|scratch| {
                let (line, parts) = scratch.split_at_mut(windows.line());
                line.fill(f32::NEG_INFINITY);
                maxima(y, x, &windows, line, parts);
            })
        });
    }
}

impl CpuOp for MaxPool2dBackward {
    fn scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        let windows = Windows::new(self.pool.window(), &inputs[0].shape, &inputs[1].shape);
        threads * (windows.line() + 2 * windows.parts() + windows.width())
    }

    fn run(&self, mut io: Io) {
        let (x, dy, dx) = (io.f32(0), io.f32(1), io.output(0));
        let windows = Windows::new(self.pool.window(), io.shape(0), io.shape(1));
        let ([h, w], [p, q]) = (windows.input, windows.output);
        let lengths = windows.line() + 2 * windows.parts() + windows.width();
        let scratch = Pieces::new(io.scratch(), lengths, io.threads());
        let planes = x.par_chunks(h * w).zip(dy.par_chunks(p * q));
        dx.par_chunks_mut(h * w).zip(planes).for_each(|(dx, (x, dy))| {
            scratch.with(|scratch| {
                let (line, parts) = scratch.split_at_mut(windows.line());
                line.fill(f32::NEG_INFINITY);
                dx.fill(0.0);
                to_first_maxima(dx, x, dy, &windows, line, parts);
            })
        });
    }
}

/// Whether `x` takes the place of the maximum so far: the first maximum stays, and NaN wins.
#[inline(always)]
#[allow(clippy::neg_cmp_op_on_partial_ord)] // what is no number is not lower
fn wins(x: f32, best: f32) -> bool {
    !(x <= best) & !best.is_nan()
}

#[inline(always)]
fn larger(best: Vector, x: Vector) -> Vector {
    lanes(0.0, |i| if wins(x[i], best[i]) { x[i] } else { best[i] })
}

vectorised! {
    /// y = the maxima of the windows of a plane x; `line` holds -infinity, `parts` anything.
    fn maxima(y: &mut [f32], x: &[f32], windows: &Windows, line: &mut [f32], parts: &mut [f32]) {
        #[inline(always)]
        fn by<const STRIDE: usize, const FMA: bool>(
            y: &mut [f32],
            x: &[f32],
            windows: &Windows,
            line: &mut [f32],
            parts: &mut [f32],
        ) {
            let (width, kernel, stride) = (windows.width(), windows.kernel(), windows.stride());
            for r in 0..windows.input[0] {
                let (row, parts) = (windows.row(line, x, r), &mut parts[r * width..]);
                for at in starts::<LANES>(width) {
                    let mut best = [f32::NEG_INFINITY; LANES];
                    for tap in at * stride..at * stride + kernel {
                        best = larger(best, every::<STRIDE, FMA>(&row[tap..], stride));
                    }
                    store(&mut parts[at..], best);
                }
            }
            let q = windows.output[1];
            for i in 0..windows.output[0] {
                let (rows, y) = (windows.rows(i), &mut y[i * q..][..q]);
                for at in starts::<LANES>(width) {
                    let mut best = [f32::NEG_INFINITY; LANES];
                    for r in rows.start..rows.end {
                        best = larger(best, load(&parts[r * width + at..]));
                    }
                    let y = &mut y[at..];
                    if y.len() < LANES { y.copy_from_slice(&best[..y.len()]) } else { store(y, best) }
                }
            }
        }
        by_stride!(windows.stride(), by(y, x, windows, line, parts))
    }
}

vectorised! {
    /// Adds dy to dx at the first maximum of each window of a plane x; where all are -infinity, at the first of them. `line` holds
    /// -infinity, `scratch` anything.
    fn to_first_maxima(
        dx: &mut [f32], x: &[f32], dy: &[f32], windows: &Windows, line: &mut [f32], scratch: &mut [f32],
    ) {
        #[inline(always)]
        fn by<const STRIDE: usize, const FMA: bool>(
            dx: &mut [f32],
            x: &[f32],
            dy: &[f32],
            windows: &Windows,
            line: &mut [f32],
            scratch: &mut [f32],
        ) {
            let (width, kernel, stride) = (windows.width(), windows.kernel(), windows.stride());
            // Whole numbers travel as the bits of an f32, which a choice between two leaves alone: vectors are of one type.
            let (parts, rest) = scratch.split_at_mut(windows.parts());
            let (columns, places) = rest.split_at_mut(windows.parts());
            for r in 0..windows.input[0] {
                let row = windows.row(line, x, r);
                let (parts, columns) = (&mut parts[r * width..], &mut columns[r * width..]);
                for at in starts::<LANES>(width) {
                    let column = |tap: usize| lanes(0.0, |i| f32::from_bits(windows.column(at + i, tap) as u32));
                    let (mut best, mut winner) = ([f32::NEG_INFINITY; LANES], column(0));
                    for tap in 0..kernel {
                        let x = every::<STRIDE, FMA>(&row[at * stride + tap..], stride);
                        let column: Vector = column(tap);
                        winner = lanes(0.0, |i| if wins(x[i], best[i]) { column[i] } else { winner[i] });
                        best = larger(best, x);
                    }
                    store(&mut parts[at..], best);
                    store(&mut columns[at..], winner);
                }
            }
            let q = windows.output[1];
            for i in 0..windows.output[0] {
                let (rows, dy) = (windows.rows(i), &dy[i * q..][..q]);
                for at in starts::<LANES>(width) {
                    let place = |r: usize| -> Vector {
                        let column: Vector = load(&columns[r * width + at..]);
                        lanes(0.0, |i| f32::from_bits(column[i].to_bits() + (r * windows.input[1]) as u32))
                    };
                    let (mut best, mut winner) = ([f32::NEG_INFINITY; LANES], place(rows.start));
                    for r in rows.start..rows.end {
                        let (x, place): (Vector, Vector) = (load(&parts[r * width + at..]), place(r));
                        winner = lanes(0.0, |i| if wins(x[i], best[i]) { place[i] } else { winner[i] });
                        best = larger(best, x);
                    }
                    store(&mut places[at..], winner);
                }
                for j in 0..q {
                    dx[places[j].to_bits() as usize] += dy[j];
                }
            }
        }
        by_stride!(windows.stride(), by(dx, x, dy, windows, line, scratch))
    }
}
