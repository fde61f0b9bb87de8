//! Max-pooling and its gradient. The gradient goes to the largest of a window; of equals to the first in the order of rows, then of columns:
//! so it is sought along each row of the picture, then down the window. NaN is larger than any number.

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
        threads * Windows::new(self.window(), &inputs[0].shape, &outputs[0].shape).line()
    }

    fn run(&self, mut io: Io) {
        let (x, y) = (io.f32(0), io.output(0));
        let windows = Windows::new(self.window(), io.shape(0), io.output_shape(0));
        let ([h, w], [p, q]) = (windows.input, windows.output);
        let scratch = Pieces::new(io.scratch(), windows.line(), io.threads());
        y.par_chunks_mut(p * q).zip(x.par_chunks(h * w)).for_each(|(y, x)| {
            scratch.with(|line| {
                line.fill(f32::NEG_INFINITY);
                maxima(y, x, &windows, line);
            })
        });
    }
}

impl CpuOp for MaxPool2dBackward {
    fn scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        let windows = Windows::new(self.pool.window(), &inputs[0].shape, &inputs[1].shape);
        threads * (windows.line() + 2 * windows.parts() + 2 * windows.width())
    }

    fn run(&self, mut io: Io) {
        let (x, dy, dx) = (io.f32(0), io.f32(1), io.output(0));
        let windows = Windows::new(self.pool.window(), io.shape(0), io.shape(1));
        let ([h, w], [p, q]) = (windows.input, windows.output);
        let lengths = windows.line() + 2 * windows.parts() + 2 * windows.width();
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

/// Whether `x` takes the place of the maximum so far: the first maximum stays, and NaN wins. Where all are `FINITE` that is one comparison.
#[inline(always)]
#[allow(clippy::neg_cmp_op_on_partial_ord)] // what is no number is not lower
fn wins<const FINITE: bool>(x: f32, best: f32) -> bool {
    if FINITE { x > best } else { !(x <= best) & !best.is_nan() }
}

#[inline(always)]
fn larger<const N: usize, const FINITE: bool>(best: [f32; N], x: [f32; N]) -> [f32; N] {
    lanes(0.0, |i| if wins::<FINITE>(x[i], best[i]) { x[i] } else { best[i] })
}

/// Whether no element is NaN or infinite: of these 0 times the element is NaN. Four sums, since each addition waits for the one before.
#[inline(always)]
fn all_finite(x: &[f32]) -> bool {
    let (vectors, rest) = x.as_chunks::<{ 4 * LANES }>();
    let sum = vectors.iter().fold([0.0; 4 * LANES], |sum, x| lanes(0.0, |i| sum[i] + 0.0 * x[i]));
    sum.iter().chain(rest).all(|x| x.is_finite())
}

vectorised! {
    /// y = the maxima of the windows of a plane x: first down its columns, then along them. `line` holds -infinity.
    fn maxima(y: &mut [f32], x: &[f32], windows: &Windows, line: &mut [f32]) {
        #[inline(always)]
        fn by<const STRIDE: usize, const FMA: bool>(y: &mut [f32], x: &[f32], windows: &Windows, line: &mut [f32]) {
            if all_finite(x) { of::<STRIDE, true, FMA>(y, x, windows, line) } else { of::<STRIDE, false, FMA>(y, x, windows, line) }
        }
        #[inline(always)]
        fn of<const STRIDE: usize, const FINITE: bool, const FMA: bool>(
            y: &mut [f32],
            x: &[f32],
            windows: &Windows,
            line: &mut [f32],
        ) {
            let ([_, w], [_, q]) = (windows.input, windows.output);
            let (kernel, stride) = (windows.kernel(), windows.stride());
            for (i, y) in y.chunks_exact_mut(q).enumerate() {
                let rows = windows.rows(i);
                let (rows, columns) = (&x[rows.start * w..rows.end * w], windows.columns(line));
                match w < LANES {
                    true => down::<1, FINITE>(columns, rows),
                    false => down::<LANES, FINITE>(columns, rows),
                }
                for at in starts::<LANES>(windows.width()) {
                    let first = at * stride;
                    let best = (first..first + kernel).fold([f32::NEG_INFINITY; LANES], |best, tap| {
                        larger::<LANES, FINITE>(best, every::<STRIDE, FMA>(&line[tap..], stride))
                    });
                    let y = &mut y[at..];
                    if y.len() < LANES { y.copy_from_slice(&best[..y.len()]) } else { store(y, best) }
                }
            }
        }
        /// Of each column the largest in the rows.
        #[inline(always)]
        fn down<const N: usize, const FINITE: bool>(columns: &mut [f32], rows: &[f32]) {
            let w = columns.len();
            for at in starts::<N>(w) {
                let mut best = [f32::NEG_INFINITY; N];
                for row in rows.chunks_exact(w) {
                    best = larger::<N, FINITE>(best, load(&row[at..]));
                }
                store(&mut columns[at..], best);
            }
        }
        by_stride!(windows.stride(), by(y, x, windows, line))
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
            match all_finite(x) {
                true => of::<STRIDE, true, FMA>(dx, x, dy, windows, line, scratch),
                false => of::<STRIDE, false, FMA>(dx, x, dy, windows, line, scratch),
            }
        }
        #[inline(always)]
        fn of<const STRIDE: usize, const FINITE: bool, const FMA: bool>(
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
            let (taps, rest) = rest.split_at_mut(windows.parts());
            let (origins, places) = rest.split_at_mut(width);
            for (j, origin) in origins.iter_mut().enumerate() {
                *origin = f32::from_bits(windows.origin(j) as u32);
            }
            // Of each window and row the maximum, and its column in the window.
            for (r, (parts, taps)) in parts.chunks_exact_mut(width).zip(taps.chunks_exact_mut(width)).enumerate() {
                let row = windows.row(line, x, r);
                for at in starts::<LANES>(width) {
                    let origin: Vector = load(&origins[at..]);
                    let first: Vector = lanes(0.0, |i| f32::from_bits((-(origin[i].to_bits() as i32)).max(0) as u32));
                    let (mut best, mut winner) = ([f32::NEG_INFINITY; LANES], first);
                    for tap in 0..kernel {
                        let x = every::<STRIDE, FMA>(&row[at * stride + tap..], stride);
                        let tap = f32::from_bits(tap as u32);
                        winner = lanes(0.0, |i| if wins::<FINITE>(x[i], best[i]) { tap } else { winner[i] });
                        best = larger::<LANES, FINITE>(best, x);
                    }
                    store(&mut parts[at..], best);
                    store(&mut taps[at..], winner);
                }
            }
            for (i, dy) in dy.chunks_exact(windows.output[1]).enumerate() {
                let rows = windows.rows(i);
                for at in starts::<LANES>(width) {
                    let origin: Vector = load(&origins[at..]);
                    let place = |r: usize| -> Vector {
                        let (tap, row): (Vector, _) = (load(&taps[r * width + at..]), (r * windows.input[1]) as u32);
                        lanes(0.0, |i| f32::from_bits(tap[i].to_bits().wrapping_add(row)))
                    };
                    let (mut best, mut winner) = ([f32::NEG_INFINITY; LANES], place(rows.start));
                    for r in rows.clone() {
                        let (x, place): (Vector, Vector) = (load(&parts[r * width + at..]), place(r));
                        winner = lanes(0.0, |i| if wins::<FINITE>(x[i], best[i]) { place[i] } else { winner[i] });
                        best = larger::<LANES, FINITE>(best, x);
                    }
                    let place: Vector = lanes(0.0, |i| f32::from_bits(winner[i].to_bits().wrapping_add(origin[i].to_bits())));
                    store(&mut places[at..], place);
                }
                for (dy, place) in dy.iter().zip(places.iter()) {
                    dx[place.to_bits() as usize] += dy;
                }
            }
        }
        by_stride!(windows.stride(), by(dx, x, dy, windows, line, scratch))
    }
}
