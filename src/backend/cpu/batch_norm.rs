//! Batch normalisation: a channel's sums in f64, where no digits of a variance are lost, then one pass over the elements.

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use super::parallel::CHUNK;
use super::simd::{each, vectorised};
use crate::ops::{BatchNorm, BatchNormBackward, BatchNormInference};

/// Channels that one task sums up where they lie side by side: a cache line.
const CHANNELS: usize = 16;

impl CpuOp for BatchNorm {
    fn run(&self, mut io: Io) {
        let (x, weight, bias) = (io.f32(0), io.f32(1), io.f32(2));
        let (y, mean, variance) = (io.output(0), io.output(1), io.output(2));
        let layout = Layout::of(io.shape(0));
        let n = layout.per_channel(x) as f64;
        let block = layout.block();
        mean.par_chunks_mut(block).zip(variance.par_chunks_mut(block)).enumerate().for_each(|(i, (mean, variance))| {
            let sums = layout.sums(i * block..i * block + mean.len(), x, x, &[0.0; CHANNELS]);
            for ((mean, variance), [sum, squares]) in mean.iter_mut().zip(variance).zip(sums) {
                let of_squares = squares / n - (sum / n).powi(2);
                *mean = (sum / n) as f32;
                *variance = if of_squares < 0.0 { 0.0 } else { of_squares as f32 }; // NaN stays
            }
        });
        layout.normalise(y, x, [weight, bias, mean, variance], self.epsilon);
    }
}

impl CpuOp for BatchNormInference {
    fn run(&self, mut io: Io) {
        let y = io.output(0);
        let vectors = [1, 2, 3, 4].map(|i| io.f32(i));
        Layout::of(io.shape(0)).normalise(y, io.f32(0), vectors, self.epsilon);
    }
}

impl CpuOp for BatchNormBackward {
    fn run(&self, mut io: Io) {
        let [x, weight, mean, variance, dy] = [0, 1, 2, 3, 4].map(|i| io.f32(i));
        let (dx, dweight, dbias) = (io.output(0), io.output(1), io.output(2));
        let layout = Layout::of(io.shape(0));
        let n = layout.per_channel(x) as f32;
        let block = layout.block();
        let inverse = |variance: f32| 1.0 / (variance + self.epsilon).sqrt();
        dweight.par_chunks_mut(block).zip(dbias.par_chunks_mut(block)).enumerate().for_each(|(i, (dweight, dbias))| {
            let range = i * block..i * block + dweight.len();
            let sums = layout.sums(range.clone(), dy, x, &mean[range.clone()]);
            let outputs = dweight.iter_mut().zip(dbias).zip(sums).zip(&variance[range]);
            for (((dweight, dbias), [sum, products]), &variance) in outputs {
                (*dbias, *dweight) = (sum as f32, products as f32 * inverse(variance));
            }
        });
        // The factors of dy - a - (x - mean) * b.
        let factors = |c: usize| {
            let r = inverse(variance[c]);
            [mean[c], dbias[c] / n, r * dweight[c] / n, weight[c] * r]
        };
        layout.rows(dx, |first, dx| {
            let range = first..first + dx.len();
            let (dy, x) = (&dy[range.clone()], &x[range]);
            match layout.inner {
                1 => backward_row(dx, dy, x, &factors),
                inner => backward_plane(dx, dy, x, factors(first / inner % layout.channels)),
            }
        });
    }
}

/// `[N, channels, inner]`.
struct Layout {
    channels: usize,
    inner: usize,
}

impl Layout {
    fn of(shape: &[usize]) -> Self {
        Layout { channels: shape[1], inner: shape[2..].iter().product() }
    }

    fn per_channel(&self, x: &[f32]) -> usize {
        x.len() / self.channels
    }

    /// Channels of a task's sums.
    fn block(&self) -> usize {
        if self.inner == 1 { CHANNELS } else { 1 }
    }

    /// Of each of these channels: the sums of v and of v * (x - mean), in an order that the shape alone fixes.
    fn sums(&self, range: std::ops::Range<usize>, v: &[f32], x: &[f32], mean: &[f32]) -> [[f64; 2]; CHANNELS] {
        let mut sums = [[0.0; 2]; CHANNELS];
        let (row, own) = (self.channels * self.inner, range.start * self.inner..range.end * self.inner);
        for (v, x) in v.chunks(row).zip(x.chunks(row)) {
            let (v, x) = (&v[own.clone()], &x[own.clone()]);
            if self.inner == 1 {
                add_row(&mut sums, v, x, mean);
            } else {
                let [sum, products] = plane_sums(v, x, mean[0]);
                sums[0] = [sums[0][0] + sum, sums[0][1] + products];
            }
        }
        sums
    }

    /// Runs `f(first element, elements)` on rows of channels that lie side by side, or on planes of one channel each.
    fn rows(&self, y: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
        let row = if self.inner == 1 { self.channels } else { self.inner };
        let rows = y.par_chunks_mut(row).enumerate().with_min_len((CHUNK / row).max(1));
        rows.for_each(|(i, y)| f(i * row, y));
    }

    /// y = (x - mean) / sqrt(variance + epsilon) * weight + bias.
    fn normalise(&self, y: &mut [f32], x: &[f32], vectors: [&[f32]; 4], epsilon: f32) {
        let [weight, bias, mean, variance] = vectors;
        let factors = |c: usize| [mean[c], weight[c] / (variance[c] + epsilon).sqrt(), bias[c]];
        self.rows(y, |first, y| {
            let x = &x[first..first + y.len()];
            match self.inner {
                1 => forward_row(y, x, &factors),
                inner => forward_plane(y, x, factors(first / inner % self.channels)),
            }
        });
    }
}

vectorised! {
    fn add_row(sums: &mut [[f64; 2]], v: &[f32], x: &[f32], mean: &[f32]) {
        for ((sum, &mean), (&v, &x)) in sums.iter_mut().zip(mean).zip(v.iter().zip(x)) {
            *sum = [sum[0] + v as f64, sum[1] + v as f64 * (x as f64 - mean as f64)];
        }
    }
}

vectorised! {
    /// The sums of v and of v * (x - mean): eight of each, added up at the end.
    fn plane_sums(v: &[f32], x: &[f32], mean: f32) -> [f64; 2] {
        let (mut sums, mut products, mean) = ([0.0f64; 8], [0.0f64; 8], mean as f64);
        let ((v_blocks, v_rest), (x_blocks, x_rest)) = (v.as_chunks::<8>(), x.as_chunks::<8>());
        for (v, x) in v_blocks.iter().zip(x_blocks) {
            each(&mut sums, v, |sum, &v| *sum += v as f64);
            for i in 0..8 {
                products[i] += v[i] as f64 * (x[i] as f64 - mean);
            }
        }
        let mut total = [sums.iter().sum::<f64>(), products.iter().sum::<f64>()];
        for (&v, &x) in v_rest.iter().zip(x_rest) {
            total = [total[0] + v as f64, total[1] + v as f64 * (x as f64 - mean)];
        }
        total
    }
}

vectorised! {
    fn forward_plane(y: &mut [f32], x: &[f32], factors: [f32; 3]) {
        let [mean, factor, bias] = factors;
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (x - mean) * factor + bias;
        }
    }
}

vectorised! {
    fn forward_row<F: Fn(usize) -> [f32; 3]>(y: &mut [f32], x: &[f32], factors: &F) {
        for (c, (y, &x)) in y.iter_mut().zip(x).enumerate() {
            let [mean, factor, bias] = factors(c);
            *y = (x - mean) * factor + bias;
        }
    }
}

vectorised! {
    fn backward_plane(dx: &mut [f32], dy: &[f32], x: &[f32], factors: [f32; 4]) {
        let [mean, a, b, factor] = factors;
        for (dx, (&dy, &x)) in dx.iter_mut().zip(dy.iter().zip(x)) {
            *dx = (dy - a - (x - mean) * b) * factor;
        }
    }
}

vectorised! {
    fn backward_row<F: Fn(usize) -> [f32; 4]>(dx: &mut [f32], dy: &[f32], x: &[f32], factors: &F) {
        for (c, (dx, (&dy, &x))) in dx.iter_mut().zip(dy.iter().zip(x)).enumerate() {
            let [mean, a, b, factor] = factors(c);
            *dx = (dy - a - (x - mean) * b) * factor;
        }
    }
}
