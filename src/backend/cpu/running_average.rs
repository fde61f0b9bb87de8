//! The running average, in place.

use super::memory::Io;
use super::parallel::CHUNK;
use super::{CpuOp, simd::vectorised};
use crate::ops::RunningAverage;

use rayon::prelude::*;

impl CpuOp for RunningAverage {
    fn run(&self, mut io: Io) {
        let (measured, average, weights) = (io.f32(1), io.output(0), self.weights());
        average.par_chunks_mut(CHUNK).zip(measured.par_chunks(CHUNK)).for_each(|(a, m)| update(a, m, weights));
    }
}

vectorised! {
    fn update(average: &mut [f32], measured: &[f32], weights: [f32; 2]) {
        for (average, &measured) in average.iter_mut().zip(measured) {
            *average = weights[0] * *average + weights[1] * measured;
        }
    }
}
