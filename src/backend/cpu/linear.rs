//! Fully connected layer: forward, and backward to input and weight.
//!
//! Weights are large (151 MB in AlexNet's fc6) and batches small, so what counts is to stream the weight once, in memory order.

use super::CpuOp;
use super::matmul::{Matrix, matmul};
use super::memory::Io;
use crate::ops::{Linear, LinearBackwardInput, LinearBackwardWeight};
use crate::tensor::TensorType;

impl CpuOp for Linear {
    fn scratch(&self, inputs: &[&TensorType], _: &[&TensorType], _: usize) -> usize {
        inputs[0].shape.elements()
    }

    fn run(&self, mut io: Io) {
        let (x, w, y, scratch) = (io.f32(0), io.f32(1), io.output(0), io.scratch());
        let (n, features, outs) = (io.shape(0)[0], io.shape(0)[1], io.shape(1)[0]);
        let x = transposed(scratch, x, features).t();
        let w = Matrix::rows(w, [outs, features], features);
        matmul(y, outs, x, w.t(), false, io.threads());
        debug_assert_eq!(n * outs, y.len());
    }
}

impl CpuOp for LinearBackwardInput {
    fn scratch(&self, inputs: &[&TensorType], _: &[&TensorType], _: usize) -> usize {
        inputs[0].shape.elements()
    }

    fn run(&self, mut io: Io) {
        let (dy, w, dx, scratch) = (io.f32(0), io.f32(1), io.output(0), io.scratch());
        let (outs, features) = (io.shape(1)[0], io.shape(1)[1]);
        let dy = transposed(scratch, dy, outs).t();
        matmul(dx, features, dy, Matrix::rows(w, [outs, features], features), false, io.threads());
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

/// The transpose of a row-major matrix with `columns`, copied into scratch memory.
fn transposed<'a>(scratch: &'a mut [f32], x: &[f32], columns: usize) -> Matrix<'a> {
    let rows = x.len() / columns;
    let scratch = &mut scratch[..x.len()];
    for (i, row) in x.chunks_exact(columns).enumerate() {
        for (j, &x) in row.iter().enumerate() {
            scratch[j * rows + i] = x;
        }
    }
    Matrix::rows(scratch, [columns, rows], rows)
}
