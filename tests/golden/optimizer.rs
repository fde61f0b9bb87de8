//! Fixtures of optimizers: one weight through many steps.

use convoy::backend::Device;
use convoy::graph::{Graph, Role};
use convoy::models::{OptimizerConfig, Rule};
use convoy::ops::{Adam, Op, Sgd};
use convoy::tensor::{Tensor, TensorType};
use serde::Deserialize;

use crate::fixture::{Fixture, Options, Outcome, TOLERANCE};
use crate::{common, graph};

#[derive(Deserialize)]
struct OptimizerOptions {
    op: String,
    options: Options,
}

/// The weight after each step, the state after the last. Returns the op's name.
pub fn check(device: &mut dyn Device, fixture: &Fixture) -> Outcome<Vec<&'static str>> {
    let OptimizerOptions { op, options } = fixture.options();
    let op = graph::op(&op, &options);
    // The schedule comes from the rule, as in a training.
    let (rule, states) = match op {
        Op::Sgd(Sgd { momentum, nesterov, paper, .. }) => (Rule::Sgd { momentum, nesterov, paper }, &["velocity"][..]),
        Op::Adam(Adam { beta1, beta2, epsilon, decoupled, .. }) => {
            (Rule::Adam { beta1, beta2, epsilon, decoupled }, &["m", "v"][..])
        }
        _ => return Err("this is no optimizer".into()),
    };
    let config = OptimizerConfig { rule, ..OptimizerConfig::sgd(0.0, 0.0) };

    let [weights, gradients] = ["weight", "gradient"].map(|name| rows(fixture.tensor(name)));
    let rates = fixture.tensor("lr").as_f32().expect("f32");
    let ty = weights[0].ty();
    let mut graph = Graph::new();
    let weight_name = fixture.value("weight");
    let weight = graph.source(&weight_name, ty.clone(), Role::Parameter)?;
    let gradient = graph.source("gradient", ty.clone(), Role::Input)?;
    let mut inputs = vec![weight, gradient];
    for state in states {
        device.set(&fixture.value(state), &Tensor::zeros(&ty).map_err(convoy::Error::device)?)?;
        inputs.push(graph.source(&fixture.value(state), ty.clone(), Role::State)?);
    }
    let schedule = graph.source("schedule", TensorType::f32([4]), Role::Input)?;
    inputs.push(schedule);
    let name = op.name();
    graph.apply_all("optimizer", op, &inputs)?;

    device.set(&weight_name, &weights[0])?;
    let mut program = device.compile(&graph, &[])?;
    for (step, ((rate, given), expected)) in (1..).zip(rates.iter().zip(&gradients).zip(&weights[1..])) {
        let numbers = config.schedule(f64::from(*rate), step).to_vec();
        program.write(gradient, given)?;
        program.write(schedule, &Tensor::f32([4], numbers)?)?;
        let ticket = program.submit()?;
        program.outputs(ticket, true)?;
        let got = device.get(&weight_name)?;
        let what = format!("weight after step {step}");
        common::compare(&what, &common::as_f64(&got), &common::as_f64(expected), TOLERANCE)?;
    }
    for (state, _) in fixture.group("state.") {
        let got = device.get(&fixture.value(state.trim_start_matches("state.")))?;
        fixture.check(state, &got, TOLERANCE)?;
    }
    Ok(vec![name])
}

/// The rows of a matrix.
fn rows(matrix: &Tensor) -> Vec<Tensor> {
    let [_, columns] = matrix.shape().matrix().expect("a matrix");
    let values = matrix.as_f32().expect("f32");
    values.chunks(columns).map(|row| Tensor::f32([columns], row.to_vec()).expect("a row")).collect()
}
