//! A fully connected layer's weight, updated by blocks: a block's gradient is made in the cache, and gone after the step on it.

use rayon::prelude::*;

use super::CpuOp;
use super::matmul::{Matrix, Panels, matmul, row_length};
use super::memory::Io;
use super::parallel::Pieces;
use super::{adam, sgd};
use crate::ops::{LinearUpdate, UpdateRule};
use crate::tensor::TensorType;

/// Rows of the weight in a block, and columns: what the optimizer reads and writes of a row is one stretch of memory.
const ROWS: usize = 24;
const COLUMNS: usize = 1024;

/// Elements from one row of a block's gradient to the next.
const ROW: usize = row_length(COLUMNS);

impl CpuOp for LinearUpdate {
    fn scratch(&self, _: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        threads * ROWS * ROW
    }

    fn run(&self, mut io: Io) {
        let (x, dy, scratch) = (io.f32(0), io.f32(1), io.scratch());
        let (n, features, outs) = (io.shape(0)[0], io.shape(0)[1], io.shape(1)[1]);
        let scratch = Pieces::new(scratch, ROWS * ROW, io.threads());
        let schedule = io.f32(io.inputs() - 1);
        // Of w and of the states.
        let mut blocks: Vec<Vec<&mut [f32]>> = (0..outs.div_ceil(ROWS)).map(|_| Vec::new()).collect();
        for output in 0..io.outputs() {
            blocks.iter_mut().zip(io.output(output).chunks_mut(ROWS * features)).for_each(|(block, w)| block.push(w));
        }
        blocks.into_par_iter().enumerate().for_each(|(i, mut block)| {
            let dy = Matrix::rows(&dy[i * ROWS..], [n, ROWS.min(outs - i * ROWS)], outs);
            scratch.with(|gradient| {
                for first in (0..features).step_by(COLUMNS) {
                    let width = COLUMNS.min(features - first);
                    matmul(gradient, ROW, dy.t(), Panels::rows(&x[first..], [n, width], features), false);
                    for (row, gradient) in gradient.chunks_exact(ROW).enumerate().take(dy.shape()[1]) {
                        let mut part = block.iter_mut().map(|w| &mut w[row * features + first..][..width]);
                        match (&self.rule, part.next(), part.next(), part.next()) {
                            (UpdateRule::Adam(rule), Some(w), Some(m), Some(v)) => {
                                adam::step(rule, schedule, w, m, v, &gradient[..width]);
                            }
                            (UpdateRule::Sgd(rule), Some(w), Some(v), None) => {
                                sgd::step(rule, schedule, w, v, &gradient[..width]);
                            }
                            _ => unreachable!("infer has counted the states"),
                        }
                    }
                }
            })
        });
    }
}
