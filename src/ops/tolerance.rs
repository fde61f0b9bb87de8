//! How far an f32 implementation may be from the f64 reference: element by element, from what is added up behind each.

use super::{Array, Operator};
use crate::ops::case::Case;

/// Relative error of one rounding to f32.
pub(super) const UNIT_ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;

/// The part of a scale that stands for a subnormal number on the way to the result, which a device may flush to 0.
pub(super) const FLUSHED: f64 = f32::MIN_POSITIVE as f64 / UNIT_ROUNDOFF;

/// What an element is compared with.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The reference's outputs.
    pub outputs: Vec<Array>,
    /// For each of them, the largest difference that rounding explains.
    pub tolerances: Vec<Vec<f64>>,
    /// The same of the inputs with 0 for subnormal numbers, where they have any: as good, since WGSL lets a device flush what
    /// it reads. A large factor, an infinity or a comparison makes much of the difference.
    pub flushed: Option<Box<Expected>>,
}

impl Expected {
    /// The reference's outputs of `case` for these inputs, and their tolerances: `u * (8 + 4 sqrt(K)) * scale`, with u =
    /// 2^-24, K the length of the longest sum behind an output, and the op's own [`Operator::scale`] of each element.
    ///
    /// Adding K products of random signs one after the other wanders to the root of the sum of their squares, which is the
    /// scale, and each addition rounds by at most u of that: a random walk of sqrt(K) steps, and 4 of its standard deviations. 8
    /// roundings cover the formula around it, transcendental functions among them. Devices may flush subnormal results to 0,
    /// which moves each term by the smallest normal number at most.
    pub fn of(case: &Case, inputs: &[Array]) -> Self {
        let outputs = case.op.reference(inputs);
        let terms = case.terms.max(1) as f64;
        let flushed = 8.0 * terms * f32::MIN_POSITIVE as f64;
        let tolerance = |(scale, output): (f64, &f64)| {
            // Where a result is finite next to infinite inputs, those had no part in it.
            let scale = if scale.is_finite() { scale } else { output.abs() };
            UNIT_ROUNDOFF * (8.0 + 4.0 * terms.sqrt()) * scale + flushed
        };
        let scales = case.op.scale(inputs, &outputs).into_iter().zip(&outputs);
        let tolerances = scales.map(|(s, y)| s.data.into_iter().zip(&y.data).map(tolerance).collect()).collect();
        let subnormal = |v: f64| v != 0.0 && v.abs() < f32::MIN_POSITIVE as f64;
        let flushed = inputs.iter().any(|input| input.data.iter().any(|&v| subnormal(v))).then(|| {
            let flush = |&v: &f64| if subnormal(v) { 0.0_f64.copysign(v) } else { v };
            let flush = |x: &Array| Array { shape: x.shape.clone(), data: x.data.iter().map(flush).collect() };
            Box::new(Expected::of(case, &inputs.iter().map(flush).collect::<Vec<_>>()))
        });
        Expected { outputs, tolerances, flushed }
    }

    /// Allows outputs that are stored rounded to `unit` of themselves.
    pub fn rounded(&mut self, unit: f64) {
        if unit == 0.0 {
            return;
        }
        for (tolerances, output) in self.tolerances.iter_mut().zip(&self.outputs) {
            tolerances.iter_mut().zip(&output.data).for_each(|(tolerance, y)| *tolerance += unit * y.abs());
        }
        self.flushed.iter_mut().for_each(|flushed| flushed.rounded(unit));
    }
}

/// The scale of an op whose outputs are sums of products of its inputs: the root of the sum of the products' squares, and
/// the result. `factors` are the inputs that are multiplied; the rest (places, labels) stay as they are.
pub(super) fn sums_of_products(
    op: &dyn Operator,
    factors: &[usize],
    inputs: &[Array],
    outputs: &[Array],
) -> Vec<Array> {
    let mut squares = inputs.to_vec();
    factors.iter().for_each(|&input| squares[input].data.iter_mut().for_each(|v| *v *= *v));
    let mut scales = op.reference(&squares);
    for (scale, output) in scales.iter_mut().zip(outputs) {
        scale.data.iter_mut().zip(&output.data).for_each(|(s, y)| *s = s.sqrt() + y.abs());
    }
    scales
}

/// The scale of an op whose result is right to a few roundings of itself.
pub(super) fn relative(outputs: &[Array]) -> Vec<Array> {
    let size = |y: &Array| Array { shape: y.shape.clone(), data: y.data.iter().map(|v| v.abs()).collect() };
    outputs.iter().map(size).collect()
}

/// A scale by a formula of the elements of two arrays of one shape.
pub(super) fn pairwise(a: &Array, b: &Array, f: impl Fn(f64, f64) -> f64) -> Vec<Array> {
    vec![Array { shape: a.shape.clone(), data: a.data.iter().zip(&b.data).map(|(&a, &b)| f(a, b)).collect() }]
}
