//! Adds a bias per channel, and its gradient.

use rayon::prelude::*;

use super::memory::Io;
use super::parallel::{map_chunk, map2_chunk, sum_chunk};
use super::{CpuOp, simd::vectorised};
use crate::ops::{Bias, BiasBackward};

impl CpuOp for Bias {
    fn run(&self, mut io: Io) {
        let (x, b, y, channels) = (io.f32(0), io.f32(1), io.output(0), io.shape(1)[0]);
        let plane: usize = io.shape(0)[2..].iter().product();
        if plane == 1 {
            let rows = y.par_chunks_mut(channels).zip(x.par_chunks(channels));
            rows.for_each(|(y, x)| map2_chunk(y, x, b, &|x, b| x + b));
        } else {
            let planes = y.par_chunks_mut(plane).zip(x.par_chunks(plane)).enumerate();
            planes.for_each(|(i, (y, x))| {
                let b = b[i % channels];
                map_chunk(y, x, &|x| x + b);
            });
        }
    }
}

/// Channels that one task of the gradient sums up: a cache line of db.
const CHANNELS: usize = 16;

impl CpuOp for BiasBackward {
    fn run(&self, mut io: Io) {
        let (dy, db, channels) = (io.f32(0), io.output(0), io.shape(0)[1]);
        let plane: usize = io.shape(0)[2..].iter().product();
        db.par_chunks_mut(CHANNELS).enumerate().for_each(|(i, db)| {
            // In f64: a channel's sum has up to N * H * W terms.
            let mut sums = [0.0; CHANNELS];
            for dy in dy.chunks(channels * plane) {
                let dy = &dy[i * CHANNELS * plane..][..db.len() * plane];
                if plane == 1 {
                    add_row(&mut sums[..db.len()], dy);
                } else {
                    for (sum, dy) in sums.iter_mut().zip(dy.chunks(plane)) {
                        *sum += sum_chunk(dy);
                    }
                }
            }
            for (db, sum) in db.iter_mut().zip(sums) {
                *db = sum as f32;
            }
        });
    }
}

vectorised! {
    fn add_row(sums: &mut [f64], x: &[f32]) {
        for (sum, &x) in sums.iter_mut().zip(x) {
            *sum += x as f64;
        }
    }
}
