//! The matrices of F(2x2, 3x3) and F(2x2, 5x5), written as sums without their zeros, and the loop that applies one.

use super::super::simd::{LANES, Vector, each, fused_lanes, load, store, vectorised};
use super::M;

/// A matrix m as a type, that makes a tile m x m^T of OxO of a tile x of IxI.
pub(super) trait Transform<const I: usize, const O: usize> {
    /// m x of a column.
    fn apply<const FMA: bool>(x: [Vector; I]) -> [Vector; O];
}

/// B^T, for what the convolution reads.
pub(super) struct Input;
/// A^T, for what it writes.
pub(super) struct Output;
/// A, for the gradient of what it writes.
pub(super) struct Cotangent;
/// G, for its kernels.
pub(super) struct Kernel;
/// G^T, for their gradient.
pub(super) struct KernelGradient;

/// The sum of factors times vectors: a row of a matrix, without its zeros.
#[inline(always)]
fn sum<const FMA: bool, const N: usize>(terms: [(f32, Vector); N]) -> Vector {
    let mut sum = [0.0; LANES];
    for (factor, x) in terms {
        sum = fused_lanes::<FMA>([factor; LANES], x, sum);
    }
    sum
}

impl Transform<4, 4> for Input {
    #[inline(always)]
    fn apply<const FMA: bool>([a, b, c, d]: [Vector; 4]) -> [Vector; 4] {
        let difference = |x, y| sum::<FMA, 2>([(1.0, x), (-1.0, y)]);
        [difference(a, c), sum::<FMA, 2>([(1.0, b), (1.0, c)]), difference(c, b), difference(d, b)]
    }
}

impl Transform<4, M> for Output {
    #[inline(always)]
    fn apply<const FMA: bool>([a, b, c, d]: [Vector; 4]) -> [Vector; M] {
        [sum::<FMA, 3>([(1.0, a), (1.0, b), (1.0, c)]), sum::<FMA, 3>([(1.0, b), (-1.0, c), (1.0, d)])]
    }
}

impl Transform<M, 4> for Cotangent {
    #[inline(always)]
    fn apply<const FMA: bool>([a, b]: [Vector; M]) -> [Vector; 4] {
        [a, sum::<FMA, 2>([(1.0, a), (1.0, b)]), sum::<FMA, 2>([(1.0, a), (-1.0, b)]), b]
    }
}

impl Transform<3, 4> for Kernel {
    #[inline(always)]
    fn apply<const FMA: bool>([a, b, c]: [Vector; 3]) -> [Vector; 4] {
        let half = |sign: f32| sum::<FMA, 3>([(0.5, a), (sign * 0.5, b), (0.5, c)]);
        [a, half(1.0), half(-1.0), c]
    }
}

impl Transform<4, 3> for KernelGradient {
    #[inline(always)]
    fn apply<const FMA: bool>([a, b, c, d]: [Vector; 4]) -> [Vector; 3] {
        let (two, sum) = (sum::<FMA, 2>, sum::<FMA, 3>);
        [sum([(1.0, a), (0.5, b), (0.5, c)]), two([(0.5, b), (-0.5, c)]), sum([(1.0, d), (0.5, b), (0.5, c)])]
    }
}

impl Transform<6, 6> for Input {
    #[inline(always)]
    fn apply<const FMA: bool>([a, b, c, d, e, f]: [Vector; 6]) -> [Vector; 6] {
        let (four, five) = (sum::<FMA, 4>, sum::<FMA, 5>);
        [
            five([(1.0, a), (-1.5, b), (-2.0, c), (1.5, d), (1.0, e)]),
            four([(-1.0, b), (0.5, c), (2.5, d), (1.0, e)]),
            four([(1.0, b), (-2.5, c), (0.5, d), (1.0, e)]),
            four([(-2.0, b), (-1.0, c), (2.0, d), (1.0, e)]),
            four([(0.5, b), (-1.0, c), (-0.5, d), (1.0, e)]),
            five([(1.0, b), (-1.5, c), (-2.0, d), (1.5, e), (1.0, f)]),
        ]
    }
}

impl Transform<6, M> for Output {
    #[inline(always)]
    fn apply<const FMA: bool>([a, b, c, d, e, f]: [Vector; 6]) -> [Vector; M] {
        let sum = sum::<FMA, 5>;
        [
            sum([(1.0, a), (1.0, b), (1.0, c), (1.0, d), (1.0, e)]),
            sum([(1.0, b), (-1.0, c), (0.5, d), (-2.0, e), (1.0, f)]),
        ]
    }
}

impl Transform<M, 6> for Cotangent {
    #[inline(always)]
    fn apply<const FMA: bool>([a, b]: [Vector; M]) -> [Vector; 6] {
        let at = |point: f32| sum::<FMA, 2>([(1.0, a), (point, b)]);
        [a, at(1.0), at(-1.0), at(0.5), at(-2.0), b]
    }
}

impl Transform<5, 6> for Kernel {
    #[inline(always)]
    fn apply<const FMA: bool>([a, b, c, d, e]: [Vector; 5]) -> [Vector; 6] {
        // The kernel as a polynomial of the point, or of 1 / point.
        let row = |[i, j, k, l, m]: [f32; 5]| sum::<FMA, 5>([(i, a), (j, b), (k, c), (l, d), (m, e)]);
        [
            a,
            row([1.0, 1.0, 1.0, 1.0, 1.0].map(|x| x / 3.0)),
            row([-1.0, 1.0, -1.0, 1.0, -1.0].map(|x| x / 3.0)),
            row([-16.0, -8.0, -4.0, -2.0, -1.0].map(|x| x / 15.0)),
            row([1.0, -2.0, 4.0, -8.0, 16.0].map(|x| x / 15.0)),
            e,
        ]
    }
}

impl Transform<6, 5> for KernelGradient {
    #[inline(always)]
    fn apply<const FMA: bool>([a, b, c, d, e, f]: [Vector; 6]) -> [Vector; 5] {
        const THIRD: f32 = 1.0 / 3.0;
        let row =
            |sign: f32, [i, j]: [f32; 2]| sum::<FMA, 4>([(THIRD, b), (sign * THIRD, c), (i / 15.0, d), (j / 15.0, e)]);
        let more = |x: Vector, y: Vector| sum::<FMA, 2>([(1.0, x), (1.0, y)]);
        [
            more(a, row(-1.0, [-16.0, 1.0])),
            row(1.0, [-8.0, -2.0]),
            row(-1.0, [-4.0, 4.0]),
            row(1.0, [-2.0, -8.0]),
            more(f, row(-1.0, [-1.0, 16.0])),
        ]
    }
}

vectorised! {
    /// Transforms a tile of `channels`: element k of the result goes to `to[places[k]..]`, in whole vectors; element k of the tile
    /// is read from `from[tile[k]..]`.
    pub(in super::super) fn transform[I, O]<S: Transform<I, O>>(
        to: &mut [f32], places: &[usize], from: &[f32], tile: &[usize], channels: usize,
    ) {
        let (places, tile) = (&places[..O * O], &tile[..I * I]);
        for c in (0..channels).step_by(LANES) {
            let mut half = [[[0.0; LANES]; I]; O];
            for j in 0..I {
                let mut column = [[0.0; LANES]; I];
                for i in 0..I {
                    column[i] = load(&from[tile[i * I + j] + c..]);
                }
                each(&mut half, &S::apply::<FMA>(column), |half, element| half[j] = *element);
            }
            for i in 0..O {
                let row = S::apply::<FMA>(half[i]);
                for j in 0..O {
                    store(&mut to[places[i * O + j] + c..], row[j]);
                }
            }
        }
    }
}
