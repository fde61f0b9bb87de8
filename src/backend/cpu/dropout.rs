//! Dropout with a Philox mask that is recomputed, never stored.

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use super::parallel::CHUNK;
use super::simd::vectorised;
use crate::ops::Dropout;
use crate::rng::{Philox, philox4x32};

/// Philox blocks, of four words each, that are computed side by side.
const BLOCKS: usize = 8;

impl CpuOp for Dropout {
    fn run(&self, mut io: Io) {
        let (x, counter, y) = (io.f32(0), io.u32(1), io.output(0));
        let random =
            Philox { seed: counter[0] as u64 | (counter[1] as u64) << 32, stream: self.stream, step: counter[2] };
        let (threshold, scale) = (self.threshold(), self.scale());
        // Rows of a strip, or chunks of what is in one piece: either way places that follow each other.
        let row = if self.part.width > 0 { self.part.width } else { CHUNK };
        y.par_chunks_mut(row).zip(x.par_chunks(row)).enumerate().for_each(|(n, (y, x))| {
            let place = self.part.place(n * row);
            // Those before the first whole block.
            let rest = (place.next_multiple_of(4) - place).min(y.len());
            for i in 0..rest {
                y[i] = if random.word((place + i) as u32) >= threshold { x[i] * scale } else { 0.0 };
            }
            drop_chunk(&mut y[rest..], &x[rest..], random, ((place + rest) / 4) as u32, threshold, scale);
        });
    }
}

vectorised! {
    /// The elements whose random words begin at block `first`.
    fn drop_chunk(y: &mut [f32], x: &[f32], random: Philox, first: u32, threshold: u32, scale: f32) {
        let key = [random.seed as u32, (random.seed >> 32) as u32];
        for (i, (y, x)) in y.chunks_mut(4 * BLOCKS).zip(x.chunks(4 * BLOCKS)).enumerate() {
            let mut words = [[0; 4]; BLOCKS];
            for (block, words) in words.iter_mut().enumerate() {
                let index = first.wrapping_add((i * BLOCKS + block) as u32);
                *words = philox4x32([index, random.stream, random.step, 0], key);
            }
            for (y, (&x, &word)) in y.iter_mut().zip(x.iter().zip(words.as_flattened())) {
                *y = if word >= threshold { x * scale } else { 0.0 };
            }
        }
    }
}
