//! Fully connected layer: forward, and backward to input and weight.
//!
//! Weights are large (151 MB in AlexNet's fc6) and batches small: what counts is to read the weight once, in the order of its
//! memory, and to do all of the batch's work on it while it is in the cache.

use rayon::prelude::*;

use super::CpuOp;
use super::matmul::{Matrix, matmul};
use super::memory::Io;
use super::simd::{fused, vectorised};
use crate::ops::{Linear, LinearBackwardInput, LinearBackwardWeight};

/// Outputs of one task of the forward product.
const OUTPUTS: usize = 32;

/// Features whose partial sums are made at a time: a few rows of x and w of this length fit a core's L1 cache.
const FEATURES: usize = 512;

/// Elements of a vector.
const LANES: usize = 8;

impl CpuOp for Linear {
    fn run(&self, mut io: Io) {
        let (x, w, y) = (io.f32(0), io.f32(1), io.output(0));
        let (features, outs) = (io.shape(1)[1], io.shape(1)[0]);
        let tasks = column_blocks(y, outs, OUTPUTS).into_par_iter().zip(w.par_chunks(OUTPUTS * features));
        tasks.for_each(|(mut y, w)| {
            y.iter_mut().for_each(|y| y.fill(0.0));
            for first in (0..features).step_by(FEATURES) {
                add_dots(&mut y, x, w, features, first);
            }
        });
    }
}

impl CpuOp for LinearBackwardInput {
    fn run(&self, mut io: Io) {
        let (dy, w, dx) = (io.f32(0), io.f32(1), io.output(0));
        let (features, outs) = (io.shape(1)[1], io.shape(1)[0]);
        column_blocks(dx, features, FEATURES).into_par_iter().enumerate().for_each(|(block, mut dx)| {
            dx.iter_mut().for_each(|dx| dx.fill(0.0));
            add_scaled_rows(&mut dx, dy, outs, &w[block * FEATURES..], features);
        });
    }
}

impl CpuOp for LinearBackwardWeight {
    fn run(&self, mut io: Io) {
        let (x, dy, dw) = (io.f32(0), io.f32(1), io.output(0));
        let (n, features, outs) = (io.shape(0)[0], io.shape(0)[1], io.shape(1)[1]);
        let (x, dy) = (Matrix::rows(x, [n, features], features), Matrix::rows(dy, [n, outs], outs));
        matmul(dw, features, dy.t(), x, false, io.threads());
    }
}

/// Cuts a row-major matrix into blocks of columns: each block is its rows' pieces.
fn column_blocks(matrix: &mut [f32], columns: usize, block: usize) -> Vec<Vec<&mut [f32]>> {
    let mut blocks: Vec<Vec<&mut [f32]>> = (0..columns.div_ceil(block)).map(|_| Vec::new()).collect();
    for row in matrix.chunks_exact_mut(columns) {
        blocks.iter_mut().zip(row.chunks_mut(block)).for_each(|(block, piece)| block.push(piece));
    }
    blocks
}

vectorised! {
    /// y[n][o] += the dot product of x's row n and w's row o over [`FEATURES`] features from `first`.
    fn add_dots(y: &mut [&mut [f32]], x: &[f32], w: &[f32], features: usize, first: usize) {
        /// O rows of w by N rows of x.
        #[inline(always)]
        fn tile<const FMA: bool, const O: usize, const N: usize>(w: [&[f32]; O], x: [&[f32]; N]) -> [[f32; O]; N] {
            let mut sums = [[[0.0; LANES]; O]; N];
            let w_vectors = w.map(|row| row.as_chunks::<LANES>());
            let x_vectors = x.map(|row| row.as_chunks::<LANES>());
            let vectors = w_vectors.iter().chain(&x_vectors).map(|row| row.0.len()).min().unwrap_or(0);
            for i in 0..vectors {
                let w = w_vectors.map(|row| row.0[i]);
                for (sums, x) in sums.iter_mut().zip(x_vectors) {
                    let x = x.0[i];
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = std::array::from_fn(|lane| fused::<FMA>(x[lane], w[lane], sum[lane]));
                    }
                }
            }
            std::array::from_fn(|n| std::array::from_fn(|o| {
                let rest: f32 = w_vectors[o].1.iter().zip(x_vectors[n].1).map(|(w, x)| w * x).sum();
                sums[n][o].iter().sum::<f32>() + rest
            }))
        }
        let chunk = first..(first + FEATURES).min(features);
        let w_row = |o: usize| &w[o * features..][chunk.clone()];
        let x_row = |n: usize| &x[n * features..][chunk.clone()];
        let outs = w.len() / features;
        let mut o = 0;
        while o < outs {
            let mut n = 0;
            let wide = o + 4 <= outs;
            while n < y.len() {
                if wide && n + 3 <= y.len() {
                    let sums = tile::<FMA, 4, 3>([0, 1, 2, 3].map(|i| w_row(o + i)), [0, 1, 2].map(|i| x_row(n + i)));
                    for (i, sums) in sums.iter().enumerate() {
                        y[n + i][o..o + 4].iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
                    }
                    n += 3;
                } else if wide {
                    let [sums] = tile::<FMA, 4, 1>([0, 1, 2, 3].map(|i| w_row(o + i)), [x_row(n)]);
                    y[n][o..o + 4].iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
                    n += 1;
                } else {
                    y[n][o] += tile::<FMA, 1, 1>([w_row(o)], [x_row(n)])[0][0];
                    n += 1;
                }
            }
            o += if wide { 4 } else { 1 };
        }
    }
}

vectorised! {
    /// dx[n] += the sum over o of dy[n][o] times row o of w (rows are `features` apart), four rows at a time.
    fn add_scaled_rows(dx: &mut [&mut [f32]], dy: &[f32], outs: usize, w: &[f32], features: usize) {
        #[inline(always)]
        fn rows<const FMA: bool, const O: usize>(dx: &mut [f32], dy: [f32; O], w: [&[f32]; O]) {
            let (vectors, rest) = dx.as_chunks_mut::<LANES>();
            let w_vectors = w.map(|row| &row.as_chunks::<LANES>().0[..vectors.len()]);
            for (i, dx) in vectors.iter_mut().enumerate() {
                let mut sum = *dx;
                for (dy, w) in dy.iter().zip(w_vectors) {
                    let w = w[i];
                    sum = std::array::from_fn(|lane| fused::<FMA>(*dy, w[lane], sum[lane]));
                }
                *dx = sum;
            }
            let done = w_vectors.first().map_or(0, |w| w.len() * LANES);
            for (i, dx) in rest.iter_mut().enumerate() {
                for (dy, w) in dy.iter().zip(w) {
                    *dx += dy * w[done + i];
                }
            }
        }
        let width = dx.first().map_or(0, |dx| dx.len());
        let row = |o: usize| &w[o * features..][..width];
        for o in (0..outs / 4 * 4).step_by(4) {
            let w = [0, 1, 2, 3].map(|i| row(o + i));
            for (dx, dy) in dx.iter_mut().zip(dy.chunks_exact(outs)) {
                rows::<FMA, 4>(dx, [0, 1, 2, 3].map(|i| dy[o + i]), w);
            }
        }
        for o in outs / 4 * 4..outs {
            for (dx, dy) in dx.iter_mut().zip(dy.chunks_exact(outs)) {
                rows::<FMA, 1>(dx, [dy[o]], [row(o)]);
            }
        }
    }
}
