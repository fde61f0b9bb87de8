//! Softmax and log-softmax over the last dimension, and their gradients.

use super::CpuOp;
use super::memory::Io;
use crate::ops::{Softmax, SoftmaxBackward};

impl CpuOp for Softmax {
    fn run(&self, mut io: Io) {
        let (x, y, classes) = (io.f32(0), io.output(0), io.shape(0)[1].max(1));
        for (y, x) in y.chunks_mut(classes).zip(x.chunks(classes)) {
            let (max, log_sum) = log_sum_exp(x);
            for (y, &x) in y.iter_mut().zip(x) {
                let log = x as f64 - max - log_sum;
                *y = if self.log { log } else { log.exp() } as f32;
            }
        }
    }
}

impl CpuOp for SoftmaxBackward {
    fn run(&self, mut io: Io) {
        let (y, dy, dx, classes) = (io.f32(0), io.f32(1), io.output(0), io.shape(0)[1].max(1));
        for (dx, (y, dy)) in dx.chunks_mut(classes).zip(y.chunks(classes).zip(dy.chunks(classes))) {
            let rows = || y.iter().zip(dy).map(|(&y, &dy)| (y as f64, dy as f64));
            let sum: f64 = rows().map(|(y, dy)| if self.log { dy } else { dy * y }).sum();
            for (dx, (y, dy)) in dx.iter_mut().zip(rows()) {
                *dx = if self.log { dy - y.exp() * sum } else { y * (dy - sum) } as f32;
            }
        }
    }
}

/// A row's maximum, and ln of the sum of exp(x - maximum), in f64: rows are short, and losses are sums of it. Added up, the
/// logarithm would drown in a large maximum.
pub(super) fn log_sum_exp(row: &[f32]) -> (f64, f64) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    (max, row.iter().map(|&x| (x as f64 - max).exp()).sum::<f64>().ln())
}
