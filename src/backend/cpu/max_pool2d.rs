//! Max-pooling and its gradient.

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use super::simd::vectorised;
use crate::ops::window::Window;
use crate::ops::{MaxPool2d, MaxPool2dBackward};

impl CpuOp for MaxPool2d {
    fn run(&self, mut io: Io) {
        let (x, y, window) = (io.f32(0), io.output(0), self.window());
        let ([h, w], [p, q]) = (plane(io.shape(0)), plane(io.output_shape(0)));
        y.par_chunks_mut(p * q).zip(x.par_chunks(h * w)).for_each(|(y, x)| {
            for (i, y) in y.chunks_mut(q).enumerate() {
                y.fill(f32::NEG_INFINITY);
                each_tap(&window, i, [h, w], q, |outputs, start| {
                    maxima(&mut y[outputs], &x[start..], window.stride[1])
                });
            }
        });
    }
}

impl CpuOp for MaxPool2dBackward {
    fn run(&self, mut io: Io) {
        let (x, dy, dx, window) = (io.f32(0), io.f32(1), io.output(0), self.pool.window());
        let ([h, w], [p, q]) = (plane(io.shape(0)), plane(io.shape(1)));
        let planes = x.par_chunks(h * w).zip(dy.par_chunks(p * q));
        // Best value and its place so far, of each output in a row.
        let row = || (vec![0.0f32; q], vec![0u32; q]);
        dx.par_chunks_mut(h * w).zip(planes).for_each_init(row, |(best, places), (dx, (x, dy))| {
            dx.fill(0.0);
            for (i, dy) in dy.chunks(q).enumerate() {
                best.fill(f32::NEG_INFINITY);
                // Before any tap: the first element of the window, for windows that are all -infinity.
                let first_row = window.range(0, i, h).start;
                for (j, place) in places.iter_mut().enumerate() {
                    *place = (first_row * w + window.range(1, j, w).start) as u32;
                }
                each_tap(&window, i, [h, w], q, |outputs, start| {
                    let (best, places) = (&mut best[outputs.clone()], &mut places[outputs]);
                    first_maxima(best, places, &x[start..], start as u32, window.stride[1]);
                });
                for (&place, &dy) in places.iter().zip(dy) {
                    dx[place as usize] += dy;
                }
            }
        });
    }
}

/// H and W of a shape `[N, C, H, W]`.
fn plane(shape: &[usize]) -> [usize; 2] {
    [shape[2], shape[3]]
}

/// Calls `f(outputs, start)` for each tap of the window, in row-major order, at output row `i`: the outputs of the row (of `q`) whose tap
/// lies within the picture of `[h, w]`, and where the tap of the first of them is in the plane.
fn each_tap(window: &Window, i: usize, [h, w]: [usize; 2], q: usize, mut f: impl FnMut(std::ops::Range<usize>, usize)) {
    let (stride, padding) = (window.stride[1], window.padding[1]);
    for row in window.range(0, i, h) {
        for tap in 0..window.kernel[1] {
            // Output j reads column j * stride + tap - padding.
            let first = padding.saturating_sub(tap).div_ceil(stride);
            let end = (w + padding).saturating_sub(tap).div_ceil(stride).min(q);
            if first < end {
                f(first..end, row * w + first * stride + tap - padding);
            }
        }
    }
}

/// Whether `x` takes the place of the maximum so far: the first maximum stays, and NaN wins.
#[inline(always)]
fn wins(x: f32, best: f32) -> bool {
    x > best || (x.is_nan() && !best.is_nan())
}

vectorised! {
    /// best[j] = max(best[j], x[j * stride]).
    fn maxima(best: &mut [f32], x: &[f32], stride: usize) {
        #[inline(always)]
        fn strided(best: &mut [f32], x: &[f32], stride: usize) {
            let x = &x[..(best.len() - 1) * stride + 1];
            for (j, best) in best.iter_mut().enumerate() {
                let x = x[j * stride];
                *best = if wins(x, *best) { x } else { *best };
            }
        }
        // Constant strides are loops that the compiler can vectorise.
        match stride {
            1 => strided(best, x, 1),
            2 => strided(best, x, 2),
            _ => strided(best, x, stride),
        }
    }
}

vectorised! {
    /// The same, and places[j] = start + j * stride where the maximum changed.
    fn first_maxima(best: &mut [f32], places: &mut [u32], x: &[f32], start: u32, stride: usize) {
        #[inline(always)]
        fn strided(best: &mut [f32], places: &mut [u32], x: &[f32], start: u32, stride: usize) {
            let x = &x[..(best.len() - 1) * stride + 1];
            for (j, (best, place)) in best.iter_mut().zip(places).enumerate() {
                let x = x[j * stride];
                let better = wins(x, *best);
                *best = if better { x } else { *best };
                *place = if better { start + (j * stride) as u32 } else { *place };
            }
        }
        match stride {
            1 => strided(best, places, x, start, 1),
            2 => strided(best, places, x, start, 2),
            _ => strided(best, places, x, start, stride),
        }
    }
}
