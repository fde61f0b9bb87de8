//! Local response normalisation across channels.

use std::ops::Range;

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use super::parallel::Pieces;
use super::simd::{LANES, lanes, load, starts, store, vectorised};
use crate::ops::{Lrn, LrnBackward};
use crate::tensor::TensorType;

impl CpuOp for Lrn {
    fn run(&self, mut io: Io) {
        let (a, b) = (io.f32(0), io.output(0));
        let [_, channels, plane] = self.planes(io.shape(0));
        b.par_chunks_mut(plane).enumerate().for_each(|(i, b)| {
            let c = i % channels;
            normalise(b, &Picture { lrn: self, a: &a[(i - c) * plane..][..channels * plane], channels, plane }, c);
        });
    }
}

/// Positions whose gradient is made at a time: what all channels need of them stays in a core's L2 cache.
const TILE: usize = 128;

impl CpuOp for LrnBackward {
    fn scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        threads * 2 * (inputs[0].shape[1] / self.lrn.groups) * TILE
    }

    fn run(&self, mut io: Io) {
        let (a, db, da, lrn) = (io.f32(0), io.f32(1), io.output(0), &self.lrn);
        let [_, channels, plane] = lrn.planes(io.shape(0));
        let scratch = Pieces::new(io.scratch(), 2 * channels * TILE, io.threads());
        let pictures = a.par_chunks(channels * plane).zip(db.par_chunks(channels * plane));
        da.par_chunks_mut(channels * plane).zip(pictures).for_each(|(da, (a, db))| {
            let picture = Picture { lrn, a, channels, plane };
            scratch.with(|scratch| {
                let (powers, terms) = scratch.split_at_mut(channels * TILE);
                for at in (0..plane).step_by(TILE) {
                    let width = TILE.min(plane - at);
                    for (c, (powers, terms)) in powers.chunks_mut(TILE).zip(terms.chunks_mut(TILE)).enumerate() {
                        backward_terms(&mut powers[..width], terms, &picture, db, c, at);
                    }
                    for (c, powers) in powers.chunks(TILE).enumerate() {
                        let range = c * plane + at..c * plane + at + width;
                        let terms = &terms[picture.window(c).start * TILE..picture.window(c).end * TILE];
                        let factor = 2.0 * lrn.alpha * lrn.beta;
                        backward(&mut da[range.clone()], &a[range.clone()], &db[range], powers, terms, factor);
                    }
                }
            });
        });
    }
}

impl Lrn {
    /// `[N * groups, C / groups, H * W]` of a shape `[N, C, H, W]`: a group is as a picture of its own.
    fn planes(&self, shape: &[usize]) -> [usize; 3] {
        [shape[0] * self.groups, shape[1] / self.groups, shape[2] * shape[3]]
    }
}

/// What is normalised.
struct Picture<'a> {
    lrn: &'a Lrn,
    /// `[channels, plane]`.
    a: &'a [f32],
    channels: usize,
    plane: usize,
}

impl Picture<'_> {
    /// The channels whose squares are summed for channel `c`.
    fn window(&self, c: usize) -> Range<usize> {
        let reach = self.lrn.size / 2;
        c.saturating_sub(reach)..(c + reach + 1).min(self.channels)
    }

    /// s = k + alpha * the sum of squares over channel c's window, at the `N` positions from `at`.
    #[inline(always)]
    fn brackets<const N: usize, const FMA: bool>(&self, c: usize, at: usize) -> [f32; N] {
        let mut sum = [0.0; N];
        for j in self.window(c) {
            let a = load::<N>(&self.a[j * self.plane + at..]);
            sum = lanes(0.0, |i| if FMA { a[i].mul_add(a[i], sum[i]) } else { a[i] * a[i] + sum[i] });
        }
        lanes(0.0, |i| self.lrn.k + self.lrn.alpha * sum[i])
    }

    /// (s^-beta, 1 / s): by roots for the paper's 3/4, since `powf` is not vectorised.
    #[inline(always)]
    fn powers<const N: usize>(&self, s: [f32; N]) -> ([f32; N], [f32; N]) {
        if self.lrn.beta == 0.75 {
            let root: [f32; N] = lanes(0.0, |i| s[i].sqrt());
            let fourth: [f32; N] = lanes(0.0, |i| root[i].sqrt());
            let power: [f32; N] = lanes(0.0, |i| 1.0 / (root[i] * fourth[i]));
            (power, lanes(0.0, |i| (power[i] * fourth[i]) * (power[i] * fourth[i])))
        } else {
            (lanes(0.0, |i| s[i].powf(-self.lrn.beta)), lanes(0.0, |i| 1.0 / s[i]))
        }
    }
}

vectorised! {
    /// b = a * s^-beta of channel c.
    fn normalise(b: &mut [f32], picture: &Picture, c: usize) {
        #[inline(always)]
        fn by<const N: usize, const FMA: bool>(b: &mut [f32], picture: &Picture, c: usize) {
            let a = &picture.a[c * picture.plane..];
            for at in starts::<N>(b.len()) {
                let (power, _) = picture.powers(picture.brackets::<N, FMA>(c, at));
                let a = load::<N>(&a[at..]);
                store(&mut b[at..], lanes::<f32, N>(0.0, |i| a[i] * power[i]));
            }
        }
        if b.len() < LANES { by::<1, FMA>(b, picture, c) } else { by::<LANES, FMA>(b, picture, c) }
    }
}

vectorised! {
    /// s^-beta, and the terms db * a * s^(-beta-1), of channel c at the positions from `first`.
    fn backward_terms(powers: &mut [f32], terms: &mut [f32], picture: &Picture, db: &[f32], c: usize, first: usize) {
        #[inline(always)]
        fn by<const N: usize, const FMA: bool>(
            powers: &mut [f32],
            terms: &mut [f32],
            picture: &Picture,
            db: &[f32],
            c: usize,
            first: usize,
        ) {
            let start = c * picture.plane + first;
            let (a, db) = (&picture.a[start..], &db[start..]);
            for at in starts::<N>(powers.len()) {
                let (power, inverse) = picture.powers(picture.brackets::<N, FMA>(c, first + at));
                let (a, db) = (load::<N>(&a[at..]), load::<N>(&db[at..]));
                store(&mut powers[at..], power);
                store(&mut terms[at..], lanes::<f32, N>(0.0, |i| db[i] * power[i] * a[i] * inverse[i]));
            }
        }
        let narrow = powers.len() < LANES;
        if narrow { by::<1, FMA>(powers, terms, picture, db, c, first) } else { by::<LANES, FMA>(powers, terms, picture, db, c, first) }
    }
}

vectorised! {
    /// da = db * power - factor * a * the sum of the window's terms, which lie [`TILE`] apart.
    fn backward(da: &mut [f32], a: &[f32], db: &[f32], powers: &[f32], terms: &[f32], factor: f32) {
        #[inline(always)]
        fn by<const N: usize>(da: &mut [f32], a: &[f32], db: &[f32], powers: &[f32], terms: &[f32], factor: f32) {
            for at in starts::<N>(da.len()) {
                let mut sum = [0.0; N];
                for terms in terms.chunks_exact(TILE) {
                    let terms = load::<N>(&terms[at..]);
                    sum = lanes(0.0, |i| sum[i] + terms[i]);
                }
                let (a, db, power) = (load::<N>(&a[at..]), load::<N>(&db[at..]), load::<N>(&powers[at..]));
                store(&mut da[at..], lanes::<f32, N>(0.0, |i| db[i] * power[i] - factor * a[i] * sum[i]));
            }
        }
        let narrow = da.len() < LANES;
        if narrow { by::<1>(da, a, db, powers, terms, factor) } else { by::<LANES>(da, a, db, powers, terms, factor) }
    }
}
