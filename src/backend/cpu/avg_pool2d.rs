//! Average-pooling and its gradient, in the two steps of [`Windows`].

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use super::parallel::Pieces;
use super::simd::{LANES, each, lanes, vectorised};
use super::windows::{Windows, by_stride, every};
use crate::ops::{AvgPool2d, AvgPool2dBackward};
use crate::tensor::TensorType;

impl CpuOp for AvgPool2d {
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
                let (line, sums) = scratch.split_at_mut(windows.line());
                line.fill(0.0);
                for (i, y) in y.chunks_exact_mut(q).enumerate() {
                    let rows = windows.rows(i);
                    let columns = windows.columns(line);
                    columns.fill(0.0);
                    x[rows.start * w..rows.end * w].chunks_exact(w).for_each(|row| add(columns, row));
                    window_sums(sums, line, self.kernel[1], self.stride[1]);
                    for (j, (y, sum)) in y.iter_mut().zip(sums.iter()).enumerate() {
                        *y = sum / (self.divisor(0, i, h) * self.divisor(1, j, w)) as f32;
                    }
                }
            })
        });
    }
}

impl CpuOp for AvgPool2dBackward {
    fn scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        threads * Windows::new(self.pool.window(), &outputs[0].shape, &inputs[0].shape).line()
    }

    fn run(&self, mut io: Io) {
        let (dy, dx, pool) = (io.f32(0), io.output(0), &self.pool);
        let windows = Windows::new(pool.window(), io.output_shape(0), io.shape(0));
        let ([h, w], [p, q]) = (windows.input, windows.output);
        let scratch = Pieces::new(io.scratch(), windows.line(), io.threads());
        dx.par_chunks_mut(h * w).zip(dy.par_chunks(p * q)).for_each(|(dx, dy)| {
            scratch.with(|line| {
                dx.fill(0.0);
                for (i, dy) in dy.chunks_exact(q).enumerate() {
                    line.fill(0.0);
                    for (j, dy) in dy.iter().enumerate() {
                        let share = dy / (pool.divisor(0, i, h) * pool.divisor(1, j, w)) as f32;
                        line[j * pool.stride[1]..][..pool.kernel[1]].iter_mut().for_each(|sum| *sum += share);
                    }
                    let (rows, columns) = (windows.rows(i), windows.columns(line));
                    dx[rows.start * w..rows.end * w].chunks_exact_mut(w).for_each(|row| add(row, columns));
                }
            })
        });
    }
}

vectorised! {
    fn add(sums: &mut [f32], x: &[f32]) {
        each(sums, x, |sum, x| *sum += x);
    }
}

vectorised! {
    /// sums[j] = the sum of line[j * stride..][..kernel].
    fn window_sums(sums: &mut [f32], line: &[f32], kernel: usize, stride: usize) {
        #[inline(always)]
        fn by<const STRIDE: usize, const FMA: bool>(sums: &mut [f32], line: &[f32], kernel: usize, stride: usize) {
            for (k, sums) in sums.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let mut sum = [0.0; LANES];
                for at in k * LANES * stride..k * LANES * stride + kernel {
                    let x = every::<STRIDE, FMA>(&line[at..], stride);
                    sum = lanes(0.0, |i| sum[i] + x[i]);
                }
                *sums = sum;
            }
        }
        by_stride!(stride, by(sums, line, kernel, stride))
    }
}
