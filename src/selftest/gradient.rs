//! Gradient rules against central differences of the f64 reference, with a random cotangent.

use std::collections::HashMap;

use rayon::prelude::*;

use super::harness::OneOp;
use crate::error::Error;
use crate::graph::{Role, ValueId, autodiff, reference};
use crate::ops::Array;
use crate::ops::case::Case;
use crate::rng::{Philox, stream};
use crate::tensor::{DType, Tensor};

/// Step of the differences: their error is step^2 times the third derivative, and the rounding's, about 1e-16 / step.
const STEP: f64 = 1e-5;
/// Elements checked per input: all of a small one.
const SAMPLES: usize = 48;
/// Above so many multiply-accumulates, or elements times 32, a case is slow in the reference, and fewer elements are checked.
const SLOW: u64 = 10_000_000;
/// A slope agrees when `|rule - difference| <= TOLERANCE * (1 + |difference|)`.
const TOLERANCE: f64 = 1e-6;

/// Whether a case's gradient can be checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The op has no gradient rule (backward ops, optimizers), or nothing that a gradient could be of.
    None,
    /// The case says that differences do not apply: kinks, exact ties.
    LeftOut,
    /// It can.
    Checked,
}

/// The graph of a case with its gradient appended.
struct Differentiated {
    one: OneOp,
    cotangent: ValueId,
    /// Inputs of floats, by number, and the gradient of each.
    gradients: Vec<(usize, Option<ValueId>)>,
}

fn differentiate(case: &Case) -> Result<Option<Differentiated>, String> {
    let types = case.types();
    let mut floats: Vec<usize> = (0..types.len()).filter(|&n| types[n].dtype == DType::F32).collect();
    // An input may be given and never learnt (weights of a loss): its op says so when the gradient is asked for.
    for n in floats.clone() {
        if differentiate_to(case, &[n])?.is_none() {
            floats.retain(|&other| other != n);
        }
    }
    if floats.is_empty() { Ok(None) } else { differentiate_to(case, &floats) }
}

/// To these inputs; `None` if there is no gradient to one of them.
fn differentiate_to(case: &Case, inputs: &[usize]) -> Result<Option<Differentiated>, String> {
    let mut one = OneOp::new(&case.label(), &case.op, &case.types()).map_err(|e| e.to_string())?;
    let wanted: Vec<ValueId> = inputs.iter().map(|&n| one.inputs[n]).collect();
    let cotangent_type = one.graph[one.outputs[0]].ty.clone();
    let cotangent = one.graph.source("cotangent", cotangent_type, Role::Input).map_err(|e| e.to_string())?;
    match autodiff::backward(&mut one.graph, one.outputs[0], cotangent, &wanted) {
        Err(Error::Unsupported { .. }) => Ok(None),
        Err(e) => Err(e.to_string()),
        Ok(gradients) => {
            Ok(Some(Differentiated { one, cotangent, gradients: inputs.iter().copied().zip(gradients).collect() }))
        }
    }
}

/// What can be said of the case's gradient, without checking it.
///
/// # Errors
/// When the case's graph cannot be built.
pub fn rule(case: &Case) -> Result<Rule, String> {
    Ok(match differentiate(case)? {
        None => Rule::None,
        Some(_) if !case.differentiable => Rule::LeftOut,
        Some(_) => Rule::Checked,
    })
}

/// Checks the gradient of a case to each of its inputs, where [`rule`] says that it can be.
///
/// # Errors
/// The first element whose slope the rule has wrong.
pub fn check(case: &Case, seed: u64) -> Result<Rule, String> {
    let Some(Differentiated { one, cotangent, gradients }) = differentiate(case)? else { return Ok(Rule::None) };
    if !case.differentiable {
        return Ok(Rule::LeftOut);
    }
    let inputs: Vec<Array> = case.tensors(seed).iter().map(|tensor: &Tensor| Array::from(tensor)).collect();
    let mut direction = Array::zeros(one.graph[one.outputs[0]].ty.shape.clone());
    let mut normal = vec![0.0; direction.data.len()];
    Philox { seed, stream: stream::TEST, step: 99 }.normal(&mut normal);
    direction.data.iter_mut().zip(&normal).for_each(|(d, n)| *d = f64::from(*n));
    let given: HashMap<_, _> =
        one.inputs.iter().copied().zip(inputs.iter().cloned()).chain([(cotangent, direction.clone())]).collect();
    let values = reference::run(&one.graph, &given);

    let types = case.types();
    let elements: usize = types.iter().map(|ty| ty.shape.elements()).sum();
    let samples = if case.op.macs(&types).max(32 * elements as u64) > SLOW { 4 } else { SAMPLES };
    for (n, gradient) in gradients {
        // A rule that gives no gradient must be right that there is none.
        let gradient = gradient.map(|v| &values[&v].data);
        let length = inputs[n].data.len();
        let places: Vec<usize> = if length <= 2 * samples {
            (0..length).collect()
        } else {
            let random = Philox { seed, stream: stream::TEST, step: 100 + n as u32 };
            let spread = (0..samples - 2).map(|i| (random.word(i as u32) as usize) % length);
            spread.chain([0, length - 1]).collect()
        };
        let slope = |&place: &usize| -> f64 {
            let at = |shift: f64| {
                let mut shifted = inputs.clone();
                shifted[n].data[place] += shift;
                case.op.reference(&shifted).swap_remove(0).data
            };
            let (above, below) = (at(STEP), at(-STEP));
            // Differences first, then the sum: what does not depend on the element cancels exactly.
            above.iter().zip(&below).zip(&direction.data).map(|((a, b), d)| (a - b) * d).sum::<f64>() / (2.0 * STEP)
        };
        let slopes: Vec<f64> = places.par_iter().map(slope).collect();
        for (place, slope) in places.into_iter().zip(slopes) {
            let found = gradient.map_or(0.0, |g| g[place]);
            let right = (found - slope).abs() <= TOLERANCE * (1.0 + slope.abs());
            if !right {
                return Err(format!("gradient to input {n}, element {place}: {found}, by differences {slope}"));
            }
        }
    }
    Ok(Rule::Checked)
}
