//! Local response normalisation across channels.

use std::ops::Range;

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use super::parallel::Pieces;
use super::simd::{LANES, inverse_roots, lanes, load, starts, store, vectorised};
use crate::ops::{Lrn, LrnBackward};
use crate::tensor::TensorType;

/// Positions whose sums are made side by side: one vector's waits for the next step of its own.
const WIDE: usize = 4 * LANES;

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

/// Numbers of the channels of a window, at the positions whose gradient is made at a time, that stay in a core's L1 cache.
const RING: usize = 4096;

impl LrnBackward {
    /// Channels whose terms are kept, those of a window, and positions that are worked on at a time.
    fn ring(&self, shape: &[usize]) -> [usize; 2] {
        let kept = (self.lrn.size / 2 * 2 + 1).min(shape[1] / self.lrn.groups).max(1);
        [kept, (RING / kept / LANES * LANES).max(16 * LANES)]
    }
}

impl CpuOp for LrnBackward {
    fn scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        threads * 2 * self.ring(&inputs[0].shape).iter().product::<usize>()
    }

    fn run(&self, mut io: Io) {
        let (a, db, da, lrn) = (io.f32(0), io.f32(1), io.output(0), &self.lrn);
        let [_, channels, plane] = lrn.planes(io.shape(0));
        let [kept, positions] = self.ring(io.shape(0));
        let scratch = Pieces::new(io.scratch(), 2 * kept * positions, io.threads());
        let pictures = a.par_chunks(channels * plane).zip(db.par_chunks(channels * plane));
        da.par_chunks_mut(channels * plane).zip(pictures).for_each(|(da, (a, db))| {
            let picture = Picture { lrn, a, channels, plane };
            let factor = 2.0 * lrn.alpha * lrn.beta;
            scratch.with(|scratch| {
                // Of channel c in row c % kept.
                let (powers, terms) = scratch.split_at_mut(kept * positions);
                for at in (0..plane).step_by(positions) {
                    let width = positions.min(plane - at);
                    let mut made = 0;
                    for c in 0..channels {
                        let window = picture.window(c);
                        for made in made..window.end {
                            let row = made % kept * positions;
                            let (powers, terms) = (&mut powers[row..][..width], &mut terms[row..][..width]);
                            backward_terms(powers, terms, &picture, db, made, at);
                        }
                        made = window.end;
                        let range = c * plane + at..c * plane + at + width;
                        let powers = &powers[c % kept * positions..][..width];
                        let terms = Terms { rows: terms, positions, kept, window };
                        backward(&mut da[range.clone()], &a[range.clone()], &db[range], powers, &terms, factor);
                    }
                }
            });
        });
    }
}

/// The terms of a window's channels.
struct Terms<'a> {
    rows: &'a [f32],
    positions: usize,
    kept: usize,
    window: Range<usize>,
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
    fn powers<const N: usize, const FMA: bool>(&self, s: [f32; N]) -> ([f32; N], [f32; N]) {
        if self.lrn.beta != 0.75 {
            return (lanes(0.0, |i| s[i].powf(-self.lrn.beta)), lanes(0.0, |i| 1.0 / s[i]));
        }
        let roots = |x| inverse_roots::<N, FMA>(x);
        let (inverse_root, root): ([f32; N], [f32; N]) = match roots(s).and_then(|root| Some((root, roots(root)?))) {
            Some((inverse_root, fourth)) => (inverse_root, lanes(0.0, |i| inverse_root[i] * fourth[i])),
            None => {
                let inverse_root: [f32; N] = lanes(0.0, |i| 1.0 / s[i].sqrt());
                (inverse_root, lanes(0.0, |i| inverse_root[i].sqrt()))
            }
        };
        let power = lanes(0.0, |i| inverse_root[i] * root[i]);
        (power, lanes(0.0, |i| inverse_root[i] * inverse_root[i]))
    }
}

vectorised! {
    /// b = a * s^-beta of channel c.
    fn normalise(b: &mut [f32], picture: &Picture, c: usize) {
        #[inline(always)]
        fn by<const N: usize, const FMA: bool>(b: &mut [f32], picture: &Picture, c: usize) {
            let a = &picture.a[c * picture.plane..];
            for at in starts::<N>(b.len()) {
                let (power, _) = picture.powers::<N, FMA>(picture.brackets::<N, FMA>(c, at));
                let a = load::<N>(&a[at..]);
                store(&mut b[at..], lanes::<f32, N>(0.0, |i| a[i] * power[i]));
            }
        }
        match b.len() {
            0..LANES => by::<1, FMA>(b, picture, c),
            LANES..WIDE => by::<LANES, FMA>(b, picture, c),
            WIDE.. => by::<WIDE, FMA>(b, picture, c),
        }
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
                let (power, inverse) = picture.powers::<N, FMA>(picture.brackets::<N, FMA>(c, first + at));
                let (a, db) = (load::<N>(&a[at..]), load::<N>(&db[at..]));
                store(&mut powers[at..], power);
                store(&mut terms[at..], lanes::<f32, N>(0.0, |i| db[i] * power[i] * a[i] * inverse[i]));
            }
        }
        match powers.len() {
            0..LANES => by::<1, FMA>(powers, terms, picture, db, c, first),
            LANES..WIDE => by::<LANES, FMA>(powers, terms, picture, db, c, first),
            WIDE.. => by::<WIDE, FMA>(powers, terms, picture, db, c, first),
        }
    }
}

vectorised! {
    /// da = db * power - factor * a * the sum of the window's terms.
    fn backward(da: &mut [f32], a: &[f32], db: &[f32], powers: &[f32], terms: &Terms, factor: f32) {
        #[inline(always)]
        fn by<const N: usize>(da: &mut [f32], a: &[f32], db: &[f32], powers: &[f32], terms: &Terms, factor: f32) {
            for at in starts::<N>(da.len()) {
                let mut sum = [0.0; N];
                let mut row = terms.window.start % terms.kept;
                for _ in terms.window.clone() {
                    let terms_of_row = load::<N>(&terms.rows[row * terms.positions + at..]);
                    sum = lanes(0.0, |i| sum[i] + terms_of_row[i]);
                    row = if row + 1 == terms.kept { 0 } else { row + 1 };
                }
                let (a, db, power) = (load::<N>(&a[at..]), load::<N>(&db[at..]), load::<N>(&powers[at..]));
                store(&mut da[at..], lanes::<f32, N>(0.0, |i| db[i] * power[i] - factor * a[i] * sum[i]));
            }
        }
        let narrow = da.len() < LANES;
        if narrow { by::<1>(da, a, db, powers, terms, factor) } else { by::<LANES>(da, a, db, powers, terms, factor) }
    }
}
