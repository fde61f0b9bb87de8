//! Max-pooling and its gradient.

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use super::padded::Padded;
use super::parallel::Pieces;
use super::simd::vectorised;
use crate::ops::{MaxPool2d, MaxPool2dBackward};
use crate::tensor::TensorType;

impl CpuOp for MaxPool2d {
    fn scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        threads * padded(self, &inputs[0].shape, &outputs[0].shape).plane()
    }

    fn run(&self, mut io: Io) {
        let (x, y) = (io.f32(0), io.output(0));
        let window = padded(self, io.shape(0), io.output_shape(0));
        let ([h, w], [p, q]) = (window.input, window.output);
        let scratch = Pieces::new(io.scratch(), window.plane(), io.threads());
        y.par_chunks_mut(p * q).zip(x.par_chunks(h * w)).for_each(|(y, x)| {
            scratch.with(|padded| {
                window.spread(padded, x, f32::NEG_INFINITY);
                maxima(y, padded, &window);
            })
        });
    }
}

impl CpuOp for MaxPool2dBackward {
    /// For each thread: padded planes of x and dx, and of one output row the maxima and their places.
    fn scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        let window = padded(&self.pool, &inputs[0].shape, &inputs[1].shape);
        threads * 2 * (window.plane() + window.output[1])
    }

    fn run(&self, mut io: Io) {
        let (x, dy, dx) = (io.f32(0), io.f32(1), io.output(0));
        let window = padded(&self.pool, io.shape(0), io.shape(1));
        let ([h, w], [p, q]) = (window.input, window.output);
        let scratch = Pieces::new(io.scratch(), 2 * (window.plane() + q), io.threads());
        let planes = x.par_chunks(h * w).zip(dy.par_chunks(p * q));
        dx.par_chunks_mut(h * w).zip(planes).for_each(|(dx, (x, dy))| {
            scratch.with(|scratch| {
                let (padded_x, scratch) = scratch.split_at_mut(window.plane());
                let (padded_dx, scratch) = scratch.split_at_mut(window.plane());
                let (maxima, places) = scratch.split_at_mut(q);
                let places: &mut [u32] = bytemuck::cast_slice_mut(places);
                window.spread(padded_x, x, f32::NEG_INFINITY);
                padded_dx.fill(0.0);
                for (i, dy) in dy.chunks_exact(q).enumerate() {
                    // Where every element is -infinity none wins: the first that is not padding stays.
                    let row = (i * window.stride[0]).max(window.padding[0]);
                    for (j, place) in places.iter_mut().enumerate() {
                        *place = window.at(row, (j * window.stride[1]).max(window.padding[1])) as u32;
                    }
                    first_maxima(maxima, places, padded_x, &window, i);
                    for (&place, &dy) in places.iter().zip(dy) {
                        padded_dx[place as usize] += dy;
                    }
                }
                window.collect(dx, padded_dx);
            })
        });
    }
}

/// The pool's window over planes of x that gives planes of y.
fn padded(pool: &MaxPool2d, x: &[usize], y: &[usize]) -> Padded {
    Padded {
        input: [x[2], x[3]],
        output: [y[2], y[3]],
        kernel: pool.kernel,
        stride: pool.stride,
        padding: pool.padding,
        dilation: [1, 1],
    }
}

vectorised! {
    /// y[p, q] = the maximum over the window; NaN wins.
    fn maxima(y: &mut [f32], padded: &[f32], window: &Padded) {
        y.fill(f32::NEG_INFINITY);
        let [kernel_h, kernel_w] = window.kernel;
        for (p, y) in y.chunks_exact_mut(window.output[1]).enumerate() {
            for (r, s) in (0..kernel_h).flat_map(|r| (0..kernel_w).map(move |s| (r, s))) {
                let taps = &padded[window.place(p, r, s)..][..y.len()];
                for (y, &x) in y.iter_mut().zip(taps) {
                    *y = if (x > *y) | x.is_nan() { x } else { *y };
                }
            }
        }
    }
}

vectorised! {
    /// The place in the padded plane of each window's first maximum in row-major order, for output row p; the first NaN wins.
    fn first_maxima(maxima: &mut [f32], places: &mut [u32], padded: &[f32], window: &Padded, p: usize) {
        maxima.fill(f32::NEG_INFINITY);
        let [kernel_h, kernel_w] = window.kernel;
        for (r, s) in (0..kernel_h).flat_map(|r| (0..kernel_w).map(move |s| (r, s))) {
            let start = window.place(p, r, s);
            let taps = &padded[start..][..maxima.len()];
            for (j, ((max, place), &x)) in maxima.iter_mut().zip(places.iter_mut()).zip(taps).enumerate() {
                let wins = (x > *max) | (x.is_nan() & !max.is_nan());
                *max = if wins { x } else { *max };
                *place = if wins { (start + j) as u32 } else { *place };
            }
        }
    }
}
