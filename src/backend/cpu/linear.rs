//! Fully connected layer: forward, and backward to input and weight.
//!
//! Weights are large (151 MB in AlexNet's fc6) and batches small: what counts is to read the weight once, in the order of its
//! memory, and to do all of the batch's work on it while it is in the cache.

use rayon::prelude::*;

use super::CpuOp;
use super::matmul::{COLUMNS, Matrix, Panels, matmul, matmul_by_rows, row_length};
use super::memory::Io;
use super::parallel::Pieces;
use super::simd::{LANES, Vector, each, fused_lanes, lanes, vectorised};
use super::transpose::transpose;
use crate::ops::{Linear, LinearBackwardInput, LinearBackwardWeight};
use crate::tensor::TensorType;

/// Outputs of one task of the forward product.
const OUTPUTS: usize = 48;

/// Rows of a batch that are too few to fill the columns of a product.
const FEW: usize = 8;

/// Features that are worked on at a time: a few rows of x and w of this length fit a core's L1 cache.
const FEATURES: usize = 512;

/// Length of their rows in scratch memory.
const FEATURES_ROW: usize = row_length(FEATURES);

/// Rows of w that the gradient to the input adds up at a time: their features fit a core's L2 cache.
const DEPTH: usize = 64;

/// Rows of dw that a task of the gradient to the weight computes.
const ROWS: usize = 24;

impl CpuOp for Linear {
    fn scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        let (n, features) = (inputs[0].shape[0], inputs[0].shape[1]);
        if n < FEW { 0 } else { n.next_multiple_of(COLUMNS) * features + threads * OUTPUTS * row_length(n) }
    }

    /// A small batch by dot products of rows; a large one by y^T = w x^T, since columns of y^T are whole vectors.
    fn run(&self, mut io: Io) {
        let (x, w, y) = (io.f32(0), io.f32(1), io.output(0));
        let (n, features, outs) = (io.shape(0)[0], io.shape(1)[1], io.shape(1)[0]);
        let tasks = column_blocks(y, outs, OUTPUTS).into_par_iter().zip(w.par_chunks(OUTPUTS * features));
        if n < FEW {
            tasks.for_each(|(mut y, w)| {
                y.iter_mut().for_each(|y| y.fill(0.0));
                for first in (0..features).step_by(FEATURES) {
                    add_dots(&mut y, x, w, features, first);
                }
            });
            return;
        }
        let (panels, scratch) = io.scratch().split_at_mut(n.next_multiple_of(COLUMNS) * features);
        panels.par_chunks_mut(COLUMNS * features).zip(x.par_chunks(COLUMNS * features)).for_each(|(panel, x)| {
            transpose(panel, COLUMNS, x, features, [x.len() / features, features]);
        });
        let (row, x_t) = (row_length(n), Panels::packed(panels, [features, n]));
        let scratch = Pieces::new(scratch, OUTPUTS * row, io.threads());
        tasks.for_each(|(mut y, w)| {
            scratch.with(|y_t| {
                matmul(y_t, row, Matrix::rows(w, [w.len() / features, features], features), x_t, false);
                for (n, y) in y.iter_mut().enumerate() {
                    y.iter_mut().enumerate().for_each(|(o, y)| *y = y_t[o * row + n]);
                }
            })
        });
    }
}

impl CpuOp for LinearBackwardInput {
    fn scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        threads * own(inputs[0].shape[0])
    }

    /// Each task computes some columns of dx. It copies its part of some rows of w, in the order of their memory, and adds up the
    /// products with that.
    fn run(&self, mut io: Io) {
        let (dy, w, dx) = (io.f32(0), io.f32(1), io.output(0));
        let ([n, outs], features) = ([io.shape(0)[0], io.shape(0)[1]], io.shape(1)[1]);
        let scratch = Pieces::new(io.scratch(), own(n), io.threads());
        column_blocks(dx, features, FEATURES).into_par_iter().enumerate().for_each(|(i, dx)| {
            scratch.with(|scratch| {
                let (block, sums) = scratch.split_at_mut(DEPTH * FEATURES_ROW);
                let width = dx.first().map_or(0, |dx| dx.len());
                for o in (0..outs).step_by(DEPTH) {
                    let depth = DEPTH.min(outs - o);
                    for (to, w) in
                        block.chunks_exact_mut(FEATURES_ROW).zip(w.chunks_exact(features).skip(o).take(depth))
                    {
                        to[..width].copy_from_slice(&w[i * FEATURES..][..width]);
                    }
                    let (dy, w) = (&dy[o..], Panels::rows(block, [depth, width], FEATURES_ROW));
                    matmul(sums, FEATURES_ROW, Matrix::rows(dy, [n, depth], outs), w, o > 0);
                }
                for (dx, sums) in dx.into_iter().zip(sums.chunks_exact(FEATURES_ROW)) {
                    dx.copy_from_slice(&sums[..width]);
                }
            })
        });
    }
}

/// Elements of a thread's scratch memory for the gradient to the input of a batch of n.
fn own(n: usize) -> usize {
    (DEPTH + n) * FEATURES_ROW
}

impl CpuOp for LinearBackwardWeight {
    fn run(&self, mut io: Io) {
        let (x, dy, dw) = (io.f32(0), io.f32(1), io.output(0));
        let (n, features, outs) = (io.shape(0)[0], io.shape(0)[1], io.shape(1)[1]);
        let (x, dy) = (Panels::rows(x, [n, features], features), Matrix::rows(dy, [n, outs], outs));
        matmul_by_rows(dw, features, dy.t(), x, ROWS);
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
            let w_vectors: [_; O] = lanes(Default::default(), |o| w[o].as_chunks::<LANES>());
            let x_vectors: [_; N] = lanes(Default::default(), |n| x[n].as_chunks::<LANES>());
            let vectors = w_vectors.iter().chain(&x_vectors).map(|row| row.0.len()).min().unwrap_or(0);
            for i in 0..vectors {
                let w: [Vector; O] = lanes([0.0; LANES], |o| w_vectors[o].0[i]);
                each(&mut sums, &x_vectors, |sums, x| {
                    each(sums, &w, |sum, w| *sum = fused_lanes::<FMA>(x.0[i], *w, *sum));
                });
            }
            let mut dots = [[0.0; O]; N];
            for (n, dots) in dots.iter_mut().enumerate() {
                for (o, dot) in dots.iter_mut().enumerate() {
                    let rest: f32 = w_vectors[o].1.iter().zip(x_vectors[n].1).map(|(w, x)| w * x).sum();
                    *dot = sums[n][o].iter().sum::<f32>() + rest;
                }
            }
            dots
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
                    let sums = tile::<FMA, 4, 3>(lanes(&[][..], |i| w_row(o + i)), lanes(&[][..], |i| x_row(n + i)));
                    for (i, sums) in sums.iter().enumerate() {
                        each(&mut y[n + i][o..o + 4], sums, |y, sum| *y += sum);
                    }
                    n += 3;
                } else if wide {
                    let [sums] = tile::<FMA, 4, 1>(lanes(&[][..], |i| w_row(o + i)), [x_row(n)]);
                    each(&mut y[n][o..o + 4], &sums, |y, sum| *y += sum);
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
