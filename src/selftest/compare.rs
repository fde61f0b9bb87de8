//! Element by element against the reference.

use crate::ops::Array;
use crate::ops::tolerance::Expected;
use crate::tensor::{Shape, Tensor};

/// An element that is wrong.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Mismatch {
    /// Which of the op's outputs.
    pub output: usize,
    /// Place of the first wrong element in the output, one number a dimension.
    pub index: Vec<usize>,
    /// What the device gave there.
    pub got: String,
    /// What the reference says.
    pub expected: String,
    /// The largest difference that rounding explains.
    pub tolerance: f64,
    /// How many elements of the output are wrong,
    pub wrong: usize,
    /// of how many.
    pub elements: usize,
    /// The largest error in the output as a share of its tolerance; infinite where an element is finite that must not be, or the
    /// other way round.
    pub worst: f64,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Mismatch { output, index, got, expected, tolerance, wrong, elements, .. } = self;
        write!(f, "output {output}: {wrong} of {elements} elements are wrong; the first, {index:?}, is {got}, ")?;
        write!(f, "expected {expected} within {tolerance:.1e}")
    }
}

/// The largest error as a share of its tolerance, or the first output that has wrong elements.
///
/// NaN must be NaN, and an infinity itself; what is beyond f32 may be the infinity of its sign. An element may be that of
/// the inputs as they are, or with their subnormal numbers flushed.
///
/// # Errors
/// What is wrong, boxed since it is large and rare.
pub fn compare(found: &[Tensor], expected: &Expected) -> Result<f64, Box<Mismatch>> {
    compare_with(found, expected, false)
}

/// [`compare`]; NaN may be 0 where it `drops_nan`.
///
/// # Errors
/// As [`compare`].
pub(super) fn compare_with(found: &[Tensor], expected: &Expected, drops_nan: bool) -> Result<f64, Box<Mismatch>> {
    let share = |got: f64, expected: f64, tolerance: f64| match drops_nan && expected.is_nan() && got == 0.0 {
        true => Some(0.0),
        false => share(got, expected, tolerance),
    };
    let mut worst = 0.0_f64;
    let flushed = expected.flushed.as_deref();
    for (n, ((found, reference), tolerances)) in
        found.iter().zip(&expected.outputs).zip(&expected.tolerances).enumerate()
    {
        let got = Array::from(found);
        let share = |i: usize| {
            let flushed = flushed.map(|other| share(got.data[i], other.outputs[n].data[i], other.tolerances[n][i]));
            let shares = [share(got.data[i], reference.data[i], tolerances[i]), flushed.flatten()];
            shares.into_iter().flatten().reduce(f64::min)
        };
        let wrong = |i: &usize| share(*i).is_none_or(|share| share > 1.0);
        let first = if got.shape == reference.shape { (0..got.data.len()).find(wrong) } else { Some(0) };
        if let Some(first) = first {
            let mismatched = got.shape != reference.shape;
            return Err(Box::new(Mismatch {
                output: n,
                index: place(first, &reference.shape),
                got: if mismatched { format!("a tensor {}", got.shape) } else { format!("{:e}", got.data[first]) },
                expected: if mismatched {
                    format!("a tensor {}", reference.shape)
                } else {
                    format!("{:e}", reference.data[first])
                },
                tolerance: tolerances.get(first).copied().unwrap_or_default(),
                wrong: if mismatched { got.data.len() } else { (0..got.data.len()).filter(wrong).count() },
                elements: got.data.len(),
                worst: match mismatched {
                    true => f64::INFINITY,
                    false => (0..got.data.len()).map(|i| share(i).unwrap_or(f64::INFINITY)).fold(0.0, f64::max),
                },
            }));
        }
        worst = (0..got.data.len()).filter_map(share).fold(worst, f64::max);
    }
    Ok(worst)
}

/// |got - expected| / tolerance; `None` where one is not finite and they do not agree in that.
fn share(got: f64, expected: f64, tolerance: f64) -> Option<f64> {
    let beyond = expected.abs() > f32::MAX as f64;
    if got.is_nan() || expected.is_nan() {
        (got.is_nan() && expected.is_nan()).then_some(0.0)
    } else if got.is_infinite() || expected.is_infinite() {
        (got == expected || (beyond && got == expected.signum() * f64::INFINITY)).then_some(0.0)
    } else {
        Some((got - expected).abs() / tolerance).filter(|share| !share.is_nan())
    }
}

/// A flat index as one number a dimension.
fn place(mut flat: usize, shape: &Shape) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&extent| {
            let here = flat % extent.max(1);
            flat /= extent.max(1);
            here
        })
        .collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Mul;
    use crate::ops::case::{Case, CaseInput, Fill};
    use crate::selftest::Prepared;

    #[test]
    fn what_counts_as_right() {
        let right = |got, expected| share(got, expected, 1e-3).is_some_and(|share| share <= 1.0);
        let (nan, infinity) = (f64::NAN, f64::INFINITY);
        for (got, expected) in [(1.0, 1.0005), (nan, nan), (infinity, infinity), (infinity, 1e39), (-infinity, -1e39)] {
            assert!(right(got, expected), "{got} for {expected}");
        }
        for (got, expected) in [
            (1.0, 1.1),
            (nan, 1.0),
            (1.0, nan),
            (infinity, 1.0),
            (infinity, -1e39),
            (-infinity, infinity),
            (nan, infinity),
        ] {
            assert!(!right(got, expected), "{got} for {expected}");
        }
    }

    /// Nothing in between: 1e4 times a subnormal number is far above all of them.
    #[test]
    fn subnormal_inputs_may_be_flushed() {
        let inputs = [1e4, 1e-39].map(|value| CaseInput::f32([1], Fill::Given(vec![value])));
        let expected = Prepared::of(Case::new(Mul, "subnormal", inputs.to_vec(), 1), 1).expected;
        let right = |value| compare(&[Tensor::f32([1], vec![value]).unwrap()], &expected).is_ok();
        assert!([1e-35, 0.0].into_iter().all(right));
        assert!(![5e-36, 2e-35, -1e-35].into_iter().any(right));
    }

    #[test]
    fn the_first_wrong_element_is_named() {
        let outputs = vec![Array { shape: [2, 3].into(), data: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0] }];
        let expected = Expected { outputs, tolerances: vec![vec![0.5; 6]], flushed: None };
        let found = |data: Vec<f32>| [Tensor::f32([2, 3], data).unwrap()];
        let worst = compare(&found(vec![0.0, 1.25, 2.0, 3.0, 4.0, 5.0]), &expected).unwrap();
        assert_eq!(worst, 0.5);
        let mismatch = compare(&found(vec![0.0, 1.0, 2.0, 9.0, 4.0, f32::NAN]), &expected).unwrap_err();
        assert_eq!((mismatch.index.as_slice(), mismatch.wrong, mismatch.worst), (&[1, 0][..], 2, f64::INFINITY));
        assert!(mismatch.to_string().contains("the first, [1, 0], is 9e0, expected 3e0"), "{mismatch}");
        let other = [Tensor::f32([3, 2], vec![0.0; 6]).unwrap()];
        assert!(compare(&other, &expected).unwrap_err().to_string().contains("a tensor [3, 2]"));
    }
}
