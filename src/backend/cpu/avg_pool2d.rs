//! Average-pooling and its gradient.

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use crate::ops::{AvgPool2d, AvgPool2dBackward};

impl CpuOp for AvgPool2d {
    fn run(&self, mut io: Io) {
        let (x, y, window) = (io.f32(0), io.output(0), self.window());
        let ([h, w], [p, q]) = (plane(io.shape(0)), plane(io.output_shape(0)));
        y.par_chunks_mut(p * q).zip(x.par_chunks(h * w)).for_each(|(y, x)| {
            for (i, y) in y.chunks_mut(q).enumerate() {
                for (j, y) in y.iter_mut().enumerate() {
                    let columns = window.range(1, j, w);
                    let rows = window.range(0, i, h).map(|row| x[row * w..][columns.clone()].iter().sum::<f32>());
                    *y = rows.sum::<f32>() / (self.divisor(0, i, h) * self.divisor(1, j, w)) as f32;
                }
            }
        });
    }
}

impl CpuOp for AvgPool2dBackward {
    fn run(&self, mut io: Io) {
        let (dy, dx, pool, window) = (io.f32(0), io.output(0), &self.pool, self.pool.window());
        let ([p, q], [h, w]) = (plane(io.shape(0)), self.input);
        dx.par_chunks_mut(h * w).zip(dy.par_chunks(p * q)).for_each(|(dx, dy)| {
            dx.fill(0.0);
            for (i, dy) in dy.chunks(q).enumerate() {
                for (j, dy) in dy.iter().enumerate() {
                    let share = dy / (pool.divisor(0, i, h) * pool.divisor(1, j, w)) as f32;
                    let columns = window.range(1, j, w);
                    for row in window.range(0, i, h) {
                        dx[row * w..][columns.clone()].iter_mut().for_each(|dx| *dx += share);
                    }
                }
            }
        });
    }
}

/// H and W of a shape `[N, C, H, W]`.
fn plane(shape: &[usize]) -> [usize; 2] {
    [shape[2], shape[3]]
}
