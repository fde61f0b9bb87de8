//! Joining along channels, and its gradient: copies of rows.

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use crate::ops::{Concat, ConcatBackward};

impl CpuOp for Concat {
    fn run(&self, mut io: Io) {
        let y = io.output(0);
        let inputs: Vec<(&[f32], usize)> =
            (0..io.inputs()).map(|n| (io.f32(n), io.shape(n)[1..].iter().product())).collect();
        let row: usize = inputs.iter().map(|(_, row)| row).sum();
        y.par_chunks_mut(row).enumerate().for_each(|(n, mut y)| {
            for (x, row) in &inputs {
                let (own, rest) = y.split_at_mut(*row);
                own.copy_from_slice(&x[n * row..][..*row]);
                y = rest;
            }
        });
    }
}

impl CpuOp for ConcatBackward {
    fn run(&self, mut io: Io) {
        let (dy, dx, shape) = (io.f32(0), io.output(0), io.shape(0));
        let inner: usize = shape[2..].iter().product();
        let (row, first, own) = (shape[1] * inner, self.first * inner, self.channels * inner);
        dx.par_chunks_mut(own).zip(dy.par_chunks(row)).for_each(|(dx, dy)| dx.copy_from_slice(&dy[first..][..own]));
    }
}
