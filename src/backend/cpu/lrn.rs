//! Local response normalisation across channels.

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use super::parallel::Pieces;
use super::simd::vectorised;
use crate::ops::{Lrn, LrnBackward};
use crate::tensor::TensorType;

/// Positions that are worked on at a time: their values in all channels stay in a core's L2 cache.
const TILE: usize = 128;

impl CpuOp for Lrn {
    fn run(&self, mut io: Io) {
        let (a, b) = (io.f32(0), io.output(0));
        let [_, channels, plane] = planes(io.shape(0));
        b.par_chunks_mut(plane).enumerate().for_each(|(i, b)| {
            let c = i % channels;
            let picture = &a[(i - c) * plane..][..channels * plane];
            for (tile, b) in b.chunks_mut(TILE).enumerate() {
                let mut powers = [0.0; TILE];
                let at = tile * TILE;
                brackets(&mut powers[..b.len()], self, picture, c, plane, at);
                negative_power(&mut powers[..b.len()], self.beta);
                multiply(b, &picture[c * plane + at..], &powers);
            }
        });
    }
}

impl CpuOp for LrnBackward {
    fn scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        threads * inputs[0].shape[1] * TILE
    }

    fn run(&self, mut io: Io) {
        let (a, db, da, lrn) = (io.f32(0), io.f32(1), io.output(0), &self.lrn);
        let [_, channels, plane] = planes(io.shape(0));
        let scratch = Pieces::new(io.scratch(), channels * TILE, io.threads());
        let pictures = a.par_chunks(channels * plane).zip(db.par_chunks(channels * plane));
        da.par_chunks_mut(channels * plane).zip(pictures).for_each(|(da, (a, db))| {
            scratch.with(|terms| {
                for at in (0..plane).step_by(TILE) {
                    let width = TILE.min(plane - at);
                    // First da = db * s^-beta, and the terms db * a * s^(-beta-1) of all channels; then their windows' sums.
                    for (c, terms) in terms.chunks_mut(TILE).enumerate() {
                        let mut s = [0.0; TILE];
                        brackets(&mut s[..width], lrn, a, c, plane, at);
                        let mut powers = s;
                        negative_power(&mut powers[..width], lrn.beta);
                        let range = c * plane + at..c * plane + at + width;
                        multiply(&mut da[range.clone()], &db[range.clone()], &powers);
                        divide_terms(&mut terms[..width], &da[range.clone()], &a[range], &s);
                    }
                    for c in 0..channels {
                        let mut sum = [0.0; TILE];
                        for j in window(lrn, c, channels) {
                            super::parallel::add_chunk(&mut sum[..width], &terms[j * TILE..]);
                        }
                        let range = c * plane + at..c * plane + at + width;
                        let factor = 2.0 * lrn.alpha * lrn.beta;
                        subtract_products(&mut da[range.clone()], factor, &a[range], &sum);
                    }
                }
            });
        });
    }
}

/// `[N, C, H * W]` of a shape `[N, C, H, W]`.
fn planes(shape: &[usize]) -> [usize; 3] {
    [shape[0], shape[1], shape[2] * shape[3]]
}

/// The channels whose squares are summed for channel `c`.
fn window(lrn: &Lrn, c: usize, channels: usize) -> std::ops::Range<usize> {
    c.saturating_sub(lrn.size / 2)..(c + lrn.size / 2 + 1).min(channels)
}

/// s = k + alpha * the sum of squares over channel c's window, at the positions from `at`.
fn brackets(s: &mut [f32], lrn: &Lrn, picture: &[f32], c: usize, plane: usize, at: usize) {
    s.fill(0.0);
    for j in window(lrn, c, picture.len() / plane) {
        add_squares(s, &picture[j * plane + at..]);
    }
    scale_and_shift(s, lrn.alpha, lrn.k);
}

vectorised! {
    fn add_squares(s: &mut [f32], a: &[f32]) {
        for (s, &a) in s.iter_mut().zip(a) {
            *s += a * a;
        }
    }
}

vectorised! {
    fn scale_and_shift(s: &mut [f32], scale: f32, shift: f32) {
        for s in s {
            *s = shift + scale * *s;
        }
    }
}

vectorised! {
    /// s <- s^-beta; by roots for the paper's 3/4, since `powf` is not vectorised.
    fn negative_power(s: &mut [f32], beta: f32) {
        if beta == 0.75 {
            for s in s {
                let root = s.sqrt();
                *s = 1.0 / (root * root.sqrt());
            }
        } else {
            for s in s {
                *s = s.powf(-beta);
            }
        }
    }
}

vectorised! {
    fn multiply(y: &mut [f32], a: &[f32], b: &[f32]) {
        for (y, (&a, &b)) in y.iter_mut().zip(a.iter().zip(b)) {
            *y = a * b;
        }
    }
}

vectorised! {
    /// term = scaled * a / s, with scaled = db * s^-beta.
    fn divide_terms(terms: &mut [f32], scaled: &[f32], a: &[f32], s: &[f32]) {
        for ((term, &scaled), (&a, &s)) in terms.iter_mut().zip(scaled).zip(a.iter().zip(s)) {
            *term = scaled * a / s;
        }
    }
}

vectorised! {
    fn subtract_products(y: &mut [f32], factor: f32, a: &[f32], b: &[f32]) {
        for (y, (&a, &b)) in y.iter_mut().zip(a.iter().zip(b)) {
            *y -= factor * a * b;
        }
    }
}
