//! Convolutions and fully connected layers with bias and ReLU.

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use super::parallel::CHUNK;
use super::simd::vectorised;
use crate::ops::{Biased, Product};
use crate::tensor::TensorType;

fn product(biased: &Biased) -> &dyn CpuOp {
    match &biased.product {
        Product::Conv2d(conv) => conv,
        Product::Linear(linear) => linear,
    }
}

impl CpuOp for Biased {
    fn scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        product(self).scratch(&inputs[..2], outputs, threads)
    }

    fn kept(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
        product(self).kept(&inputs[..2], outputs)
    }

    fn run(&self, mut io: Io) {
        let (bias, y, ty) = (io.f32(2), io.output(0), io.outputs[0].0);
        product(self).run(Io {
            inputs: io.inputs[..2].to_vec(),
            outputs: vec![(ty, &mut *y)],
            scratch: io.scratch(),
            kept: io.kept(),
            threads: io.threads(),
        });
        let plane: usize = ty.shape[2..].iter().product();
        if plane == 1 {
            return y.par_chunks_mut(bias.len()).for_each(|y| add_row(y, bias, self.relu));
        }
        // Small planes several at a time.
        let planes = (CHUNK / plane).max(1);
        y.par_chunks_mut(planes * plane).enumerate().for_each(|(task, y)| {
            let planes = (task * planes..).zip(y.chunks_mut(plane));
            planes.for_each(|(i, y)| add_to_plane(y, bias[i % bias.len()], self.relu));
        });
    }
}

vectorised! {
    fn add_row(y: &mut [f32], bias: &[f32], relu: bool) {
        for (y, bias) in y.iter_mut().zip(bias) {
            *y = finished(*y + bias, relu);
        }
    }
}

vectorised! {
    fn add_to_plane(y: &mut [f32], bias: f32, relu: bool) {
        for y in y.iter_mut() {
            *y = finished(*y + bias, relu);
        }
    }
}

/// Written so that NaN stays NaN.
#[inline(always)]
fn finished(sum: f32, relu: bool) -> f32 {
    if relu && sum <= 0.0 { 0.0 } else { sum }
}
