//! Philox4x32-10, the one source of randomness: a function from (seed, stream, step, index) to 32-bit words,
//! the same in Rust and in `shaders/philox.wgsl`. No state, so a run repeats, resumes and parallelises to the bit.
//!
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11; constants as in Random123.

mod normal;

use normal::{PAIRS, pairs};

/// What a random number is for. Streams never share numbers. Dropout layers use `DROPOUT + n` for the model's n-th one.
pub mod stream {
    /// Initial weights; the step is the parameter's number in the model.
    pub const INIT: u32 = 0;
    /// Order of the training pictures; the step is the epoch.
    pub const SHUFFLE: u32 = 1;
    /// Crops, flips and other augmentation; the index is the picture's place in the batch.
    pub const AUGMENT: u32 = 2;
    /// Train/validation split.
    pub const SPLIT: u32 = 3;
    /// Practice pictures drawn by `convoy sample`.
    pub const SAMPLE: u32 = 4;
    /// Which pictures of a class an epoch takes where classes are balanced; the step is the epoch.
    pub const BALANCE: u32 = 6;
    /// Colours and erased parts of augmented pictures; the index is eight times the picture's place in the batch.
    pub const COLOR: u32 = 7;
    /// What pictures of a batch are mixed of; the index is 4,096 times the picture's place in the batch.
    pub const MIX: u32 = 8;
    /// Test data.
    pub const TEST: u32 = 5;
    /// First dropout layer; the index is the element's place in the layer's output.
    pub const DROPOUT: u32 = 16;
}

/// One block: four random words for a 128-bit counter and a 64-bit key (Random123's `philox4x32`, 10 rounds).
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let p0 = 0xD251_1F53_u64 * c0 as u64;
        let p1 = 0xCD9E_8D57_u64 * c2 as u64;
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// The random numbers of one (seed, stream, step).
#[derive(Clone, Copy, Debug)]
pub struct Philox {
    /// Key: the run's seed.
    pub seed: u64,
    /// See [`stream`].
    pub stream: u32,
    /// Training step, epoch or parameter number, by the stream.
    pub step: u32,
}

impl Philox {
    /// Words `4 * block .. 4 * block + 4`: counter `[block, stream, step, 0]`, key `[seed low, seed high]`.
    pub fn block(self, block: u32) -> [u32; 4] {
        philox4x32([block, self.stream, self.step, 0], [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// The word at `index`.
    pub fn word(self, index: u32) -> u32 {
        self.block(index / 4)[index as usize % 4]
    }

    /// Uniform in [0, 1): the word's upper 24 bits times 2^-24, exact in f32.
    pub fn uniform(self, index: u32) -> f32 {
        unit(self.word(index))
    }

    /// Fills `out` with N(0, 1) by Box-Muller in f64, rounded to f32: one block gives two numbers from its four words
    /// (a 53-bit uniform would be more than f32 can show, so 32-bit uniforms in (0, 1] are used). The same bits on every system.
    pub fn normal(self, out: &mut [f32]) {
        self.normal_from(0, out);
    }

    /// The normal numbers from block `first` on: what [`Philox::normal`] writes from place `2 * first` on.
    pub fn normal_from(self, first: u32, out: &mut [f32]) {
        for (n, out) in out.chunks_mut(2 * PAIRS).enumerate() {
            let mut words = [[0; 2]; PAIRS];
            for (pair, words) in words.iter_mut().enumerate() {
                let [first, second, ..] = self.block(first.wrapping_add((n * PAIRS + pair) as u32));
                *words = [first, second];
            }
            out.copy_from_slice(&pairs(words).as_flattened()[..out.len()]);
        }
    }

    /// A uniform permutation of `0..n` (Fisher-Yates; a 64-bit product maps a word to a range with bias below n / 2^32).
    pub fn permutation(self, n: usize) -> Vec<usize> {
        self.permutation_from(0, n)
    }

    /// The same of the words from number `first` on: `n` of them.
    pub fn permutation_from(self, first: u32, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            let j = (self.word(first.wrapping_add(i as u32)) as u64 * (i as u64 + 1)) >> 32;
            order.swap(i, j as usize);
        }
        order
    }
}

/// Uniform in [0, 1) from a random word: its upper 24 bits times 2^-24.
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 / 16_777_216.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123's `kat_vectors`.
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox4x32(pi, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn permutation_holds_every_index_once() {
        let order = Philox { seed: 7, stream: stream::SHUFFLE, step: 3 }.permutation(1000);
        let mut sorted = order.clone();
        sorted.sort();
        assert!(sorted.iter().copied().eq(0..1000));
        assert_ne!(order, sorted);
    }

    /// What numpy gets of them (`tests/golden/philox.py`): networks begin with the same weights on every system.
    #[test]
    fn normal_numbers_are_known() {
        let mut x = [0.0; 5];
        Philox { seed: 1, stream: stream::INIT, step: 0 }.normal_from(7, &mut x);
        assert_eq!(x.map(f32::to_bits), [0xbf97_b48f, 0x3e7b_9514, 0x3ef6_f0e4, 0xbe98_fda7, 0xbf6d_cf1a]);
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one() {
        let mut x = vec![0.0; 100_001];
        Philox { seed: 1, stream: stream::INIT, step: 0 }.normal(&mut x);
        let mean = x.iter().map(|&v| v as f64).sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "mean {mean}, variance {variance}");
    }
}
