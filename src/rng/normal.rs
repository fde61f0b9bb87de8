//! Box-Muller's formula in sums and products alone, which IEEE 754 rounds the same on every machine, where the logarithm, sine and cosine of
//! systems' libraries differ in their last bits. In loops over several numbers at once, which the compiler turns into vector instructions.

use std::f64::consts::{LN_2, SQRT_2, TAU};

/// How many pairs are computed side by side.
pub(super) const PAIRS: usize = 8;

/// Two independent numbers from N(0, 1), in f32's precision, of each pair of random words.
pub(super) fn pairs(words: [[u32; 2]; PAIRS]) -> [[f32; 2]; PAIRS] {
    let mut pairs = [[0.0; 2]; PAIRS];
    for (pair, [first, second]) in pairs.iter_mut().zip(words) {
        let radius = (-2.0 * log(first)).sqrt();
        let [cos, sin] = turn(second);
        *pair = [(radius * cos) as f32, (radius * sin) as f32];
    }
    pairs
}

/// ln((word + 1) / 2^32), to 4e-16 of itself: with (word + 1) = 2^e m, m in [1/sqrt 2, sqrt 2), it is (e - 32) ln 2 + 2 artanh s for
/// s = (m - 1) / (m + 1), whose series is s + s^3/3 + s^5/5...
#[inline(always)]
fn log(word: u32) -> f64 {
    let bits = (f64::from(word) + 1.0).to_bits();
    let m = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 1.0_f64.to_bits());
    let e = (bits >> 52) as i32 - 1023;
    let (e, m) = if m > SQRT_2 { (e + 1, 0.5 * m) } else { (e, m) };
    let s = (m - 1.0) / (m + 1.0);
    let mut series = 0.0;
    for n in [21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1] {
        series = series * (s * s) + 1.0 / f64::from(n);
    }
    f64::from(e - 32) * LN_2 + 2.0 * s * series
}

/// Cosine and sine of word / 2^32 of a full turn, to 1e-15: the nearest quarter turn exactly, the rest, an eighth at most, by Taylor's series.
#[inline(always)]
fn turn(word: u32) -> [f64; 2] {
    let quarter = word.wrapping_add(1 << 29) >> 30;
    let x = f64::from(word.wrapping_sub(quarter << 30) as i32) * (TAU / 4_294_967_296.0);
    let (mut cos, mut sin) = (1.0, 1.0);
    for n in [16, 14, 12, 10, 8, 6, 4, 2] {
        cos = 1.0 - cos * (x * x) * (1.0 / f64::from(n * (n - 1)));
        sin = 1.0 - sin * (x * x) * (1.0 / f64::from(n * (n + 1)));
    }
    sin *= x;
    let [a, b] = if quarter & 1 == 0 { [cos, sin] } else { [sin, cos] };
    let signed = |value: f64, negative: bool| if negative { -value } else { value };
    [signed(a, matches!(quarter, 1 | 2)), signed(b, quarter >= 2)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words at and beside every place where the formulas change, and others.
    fn words() -> impl Iterator<Item = u32> {
        let edges = (0..32).flat_map(|bit| (-2_i32..3).map(move |by| (1_u32 << bit).wrapping_add_signed(by)));
        let eighths = (0_u32..8).flat_map(|n| (-2_i32..3).map(move |by| (n << 29).wrapping_add_signed(by)));
        edges.chain(eighths).chain((0..100_000).map(|n: u32| n.wrapping_mul(0x9e37_79b9)))
    }

    #[test]
    fn the_formulas_are_the_librarys_to_rounding() {
        for word in words() {
            let expected = ((f64::from(word) + 1.0) / 4_294_967_296.0).ln();
            let found = log(word);
            assert!((found - expected).abs() <= 1e-15 * expected.abs(), "log {word}: {found:e}, expected {expected:e}");
            let angle = TAU * (f64::from(word) / 4_294_967_296.0);
            for (found, expected) in turn(word).into_iter().zip([angle.cos(), angle.sin()]) {
                assert!((found - expected).abs() <= 2e-15, "turn {word}: {found:e}, expected {expected:e}");
            }
        }
    }
}
