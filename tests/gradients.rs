//! Every gradient rule against central differences of the f64 reference, with a random cotangent.

mod common;

use std::collections::{BTreeMap, HashMap};

use convoy::graph::{Role, autodiff, reference};
use convoy::ops::case::Case;
use convoy::ops::{Array, Op};
use convoy::rng::{Philox, stream};
use convoy::tensor::{Tensor, TensorType};
use rayon::prelude::*;

/// Step of the differences: their error is step^2 times the third derivative, and the rounding's, about 1e-16 / step.
const STEP: f64 = 1e-5;
/// Elements checked per input: all of a small one.
const SAMPLES: usize = 48;
/// Above so many multiply-accumulates a case is slow in the reference, and fewer elements are checked.
const SLOW: u64 = 10_000_000;

/// What checking a case found.
enum Outcome {
    /// The op has no gradient rule (backward ops, optimizers).
    NoRule,
    /// The case says that differences do not apply.
    LeftOut,
    /// So many inputs were checked.
    Checked(usize),
}

fn check(case: &Case) -> Result<Outcome, String> {
    let tensors = case.tensors(2);
    let types: Vec<TensorType> = tensors.iter().map(Tensor::ty).collect();
    let mut one = common::OneOp::new(&common::label(case), &case.op, &types).map_err(|e| e.to_string())?;
    let f32_inputs: Vec<usize> = (0..types.len()).filter(|&n| common::is_f32(&types[n])).collect();
    let wanted: Vec<_> = f32_inputs.iter().map(|&n| one.inputs[n]).collect();
    let cotangent_type = one.graph[one.outputs[0]].ty.clone();
    let cotangent = one.graph.source("cotangent", cotangent_type, Role::Input).map_err(|e| e.to_string())?;
    let gradients = match autodiff::backward(&mut one.graph, one.outputs[0], cotangent, &wanted) {
        Ok(gradients) => gradients,
        Err(convoy::Error::Unsupported { .. }) => return Ok(Outcome::NoRule),
        Err(e) => return Err(e.to_string()),
    };
    if wanted.is_empty() {
        return Ok(Outcome::NoRule);
    }
    if !case.differentiable {
        return Ok(Outcome::LeftOut);
    }
    let inputs: Vec<Array> = tensors.iter().map(Array::from).collect();
    let mut direction = Array::zeros(one.graph[one.outputs[0]].ty.shape.clone());
    let mut normal = vec![0.0; direction.data.len()];
    Philox { seed: 3, stream: stream::TEST, step: 99 }.normal(&mut normal);
    direction.data.iter_mut().zip(&normal).for_each(|(d, n)| *d = f64::from(*n));
    let given: HashMap<_, _> =
        one.inputs.iter().copied().zip(inputs.iter().cloned()).chain([(cotangent, direction.clone())]).collect();
    let values = reference::run(&one.graph, &given);

    let samples = if case.op.macs(&types) > SLOW { 4 } else { SAMPLES };
    for (&n, gradient) in f32_inputs.iter().zip(&gradients) {
        let gradient = gradient.map(|v| &values[&v].data);
        let length = inputs[n].data.len();
        let places: Vec<usize> = if length <= 2 * samples {
            (0..length).collect()
        } else {
            let random = Philox { seed: 4, stream: stream::TEST, step: n as u32 };
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
        // A rule that gives no gradient must be right that there is none.
        let found: Vec<f64> = places.iter().map(|&place| gradient.map_or(0.0, |g| g[place])).collect();
        common::compare(&format!("input {n} at {places:?}"), &found, &slopes, (1e-6, 1e-6))?;
    }
    Ok(Outcome::Checked(f32_inputs.len()))
}

#[test]
fn gradients_agree_with_central_differences() {
    let mut failures = Vec::new();
    let mut checked: BTreeMap<&'static str, usize> = BTreeMap::new();
    for case in Op::all_cases() {
        match check(&case) {
            Err(message) => failures.push(format!("{}: {message}", common::label(&case))),
            Ok(Outcome::NoRule) => {}
            Ok(Outcome::LeftOut) => *checked.entry(case.op.name()).or_default() += 0,
            Ok(Outcome::Checked(inputs)) => *checked.entry(case.op.name()).or_default() += inputs,
        }
    }
    // An op with a rule that no case checks would pass unseen.
    let unchecked = checked.iter().filter(|&(_, &inputs)| inputs == 0);
    failures.extend(unchecked.map(|(name, _)| format!("{name}: has a gradient rule, but no case checks it")));
    for name in ["conv2d", "linear", "bias", "lrn", "max_pool2d", "avg_pool2d", "dropout", "cross_entropy"] {
        if !checked.contains_key(name) {
            failures.push(format!("{name}: autodiff found no gradient rule; checked {checked:?}"));
        }
    }
    common::assert_none(failures);
}

/// A value used twice gets the sum of both gradients, through a chain of several ops.
#[test]
fn gradients_add_up_where_a_value_is_used_twice() {
    use convoy::graph::Graph;
    use convoy::ops::{Mul, Reduce, ReduceKind, Reshape, Scale};
    let mut g = Graph::new();
    let x = g.source("x", TensorType::f32([2, 3]), Role::Parameter).unwrap();
    let square = g.apply("square", Mul, &[x, x]).unwrap();
    let tripled = g.apply("tripled", Scale { factor: 3.0 }, &[x]).unwrap();
    let product = g.apply("product", Mul, &[square, tripled]).unwrap(); // 3 x^3
    let flat = g.apply("flat", Reshape { shape: [6].into() }, &[product]).unwrap();
    let loss = g.apply("loss", Reduce { kind: ReduceKind::Mean }, &[flat]).unwrap();
    let gradient = autodiff::gradients(&mut g, loss, &[x]).unwrap()[0];
    let data: Vec<f64> = vec![1.0, -2.0, 0.5, 3.0, 0.0, -1.5];
    let expected: Vec<f64> = data.iter().map(|v| 9.0 * v * v / 6.0).collect();
    let values = reference::run(&g, &HashMap::from([(x, Array { shape: [2, 3].into(), data })]));
    common::compare("9 x^2 / 6", &values[&gradient].data, &expected, (1e-6, 1e-6)).unwrap();
}

/// A loss that is not one number, or does not depend on the parameter, is an error that names the value.
#[test]
fn what_cannot_be_differentiated_is_an_error() {
    use convoy::graph::Graph;
    use convoy::ops::Scale;
    let mut g = Graph::new();
    let x = g.source("x", TensorType::f32([1]), Role::Parameter).unwrap();
    let other = g.source("other", TensorType::f32([2]), Role::Parameter).unwrap();
    let y = g.apply("y", Scale { factor: 2.0 }, &[x]).unwrap();
    let message = autodiff::gradients(&mut g, y, &[other]).unwrap_err().to_string();
    assert!(message.contains("other"), "{message}");
    let z = g.apply("z", Scale { factor: 2.0 }, &[other]).unwrap();
    let message = autodiff::gradients(&mut g, z, &[other]).unwrap_err().to_string();
    assert!(message.contains("[2]"), "{message}");
}
