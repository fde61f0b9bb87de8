//! Fixtures of whole networks: a small one through many steps, the gradients of a large one.

use convoy::backend::Device;
use convoy::models::{BuildOptions, Init, Model, OptimizerConfig, TrainGraph, train_graph};
use convoy::ops::Op;
use convoy::rng::{Philox, stream};
use convoy::tensor::{Data, Tensor};
use serde::Deserialize;

use crate::common;
use crate::fixture::{Fixture, Outcome, TOLERANCE};

#[derive(Deserialize)]
struct TrainingOptions {
    model: String,
    batch: usize,
    classes: usize,
    image_size: usize,
    stored_size: usize,
    batches: usize,
    steps: usize,
    mean: [f32; 3],
    std: [f32; 3],
    lr: f64,
    momentum: f32,
    weight_decay: f32,
    label_smoothing: f32,
}

/// Losses and last weights of a training that starts from given weights. Returns the ops that only whole networks have, as
/// [`check_step`] does.
pub fn check_training(device: &mut dyn Device, fixture: &Fixture) -> Outcome<Vec<&'static str>> {
    let options: TrainingOptions = fixture.options();
    let model = Model::parse(&options.model, &fixture.name())?;
    let build = BuildOptions {
        image_size: Some(options.image_size),
        stored_size: Some([options.stored_size; 2]),
        mean: options.mean,
        std: options.std,
        ..BuildOptions::new(options.batch, options.classes)
    };
    let optimizer = OptimizerConfig::sgd(options.momentum, options.weight_decay);
    let train = train_graph(&model, &build, &optimizer, options.label_smoothing)?;
    for parameter in &train.parameters {
        device.set(&parameter.name, fixture.tensor(&format!("initial.{}", parameter.name)))?;
    }
    let batches = (0..options.steps).map(|step| {
        let batch = step % options.batches;
        let schedule = optimizer.schedule(options.lr, step as u64 + 1);
        let [pictures, labels] = ["pictures", "labels"].map(|name| fixture.tensor(&format!("{name}.{batch}")).clone());
        Batch { pictures, labels, counter: [0, 0, step as u32, 0], schedule }
    });
    let outputs = run(device, &train, batches)?;
    let losses: Vec<f64> = outputs.iter().map(|output| common::as_f64(&output[0])[0]).collect();
    common::compare("losses", &losses, &fixture.numbers("losses"), (0.0, 1e-4))?;
    for parameter in &train.parameters {
        let got = device.get(&parameter.name)?;
        fixture.check(&format!("final.{}", parameter.name), &got, TOLERANCE)?;
    }
    Ok(fused(&train))
}

#[derive(Deserialize)]
struct StepOptions {
    model: String,
    batch: usize,
    classes: usize,
    seed: u64,
    step: u32,
    pictures: Vec<u32>,
}

/// Share of a tensor's root mean square that rounding may take; its elements are sums, and far from 1. It is what
/// [`convoy::ops::tolerance`] gives the longest sum, conv1's gradient over 4 x 55 x 55 places: 4 sqrt(12100) 2^-24.
const ROUNDING: f64 = 2.6e-5;

/// Loss, logits and gradients of one batch, weights and pictures drawn here.
pub fn check_step(device: &mut dyn Device, fixture: &Fixture) -> Outcome<Vec<&'static str>> {
    let StepOptions { model, batch, classes, seed, step, pictures } = fixture.options();
    let build = BuildOptions { init: Some(Init::PyTorch), ..BuildOptions::new(batch, classes) };
    let model = Model::find(&model)?;
    // Without momentum and decay, the velocity after the first step is the gradient.
    let train = train_graph(&model, &build, &OptimizerConfig::sgd(0.0, 0.0), 0.0)?;
    for parameter in &train.parameters {
        device.set(&parameter.name, &parameter.initial(seed)?)?;
    }
    let shape = train.graph[train.pictures].ty.shape.clone();
    let pixels = pictures.iter().flat_map(|&number| {
        let random = Philox { seed, stream: stream::TEST, step: number };
        (0..(shape.elements() / batch) as u32).map(move |i| random.word(i) as u8)
    });
    let given = Batch {
        pictures: Tensor::new(shape.clone(), Data::U8(pixels.collect()))?,
        labels: fixture.tensor("labels").clone(),
        counter: [seed as u32, (seed >> 32) as u32, step, 0],
        schedule: [0.0; 4],
    };
    let [loss, logits] = &run(device, &train, [given])?[0][..] else { unreachable!("two outputs") };
    fixture.check("loss", loss, (0.0, 1e-5))?;
    let mean = norm(&fixture.numbers("logits")) / (logits.shape().elements() as f64).sqrt();
    fixture.check("logits", logits, (ROUNDING * mean, 1e-4))?;
    for parameter in &train.parameters {
        let name = &parameter.name;
        let gradient = common::as_f64(&device.get(&format!("{name}.velocity"))?);
        let [what, length, places] = ["gradient", "norm", "places"].map(|group| format!("{group}.{name}"));
        let expected = fixture.numbers(&length);
        common::compare(&length, &[norm(&gradient)], &expected, (0.0, 1e-5))?;
        let mean = expected[0] / (gradient.len() as f64).sqrt();
        let sample: Vec<f64> = fixture.numbers(&places).iter().map(|&place| gradient[place as usize]).collect();
        common::compare(&what, &sample, &fixture.numbers(&what), (ROUNDING * mean, 1e-4))?;
    }
    Ok(fused(&train))
}

/// Names of the ops that [`convoy::graph::fuse`] has put into the graph.
fn fused(train: &TrainGraph) -> Vec<&'static str> {
    let nodes = train.graph.nodes.iter().filter(|node| matches!(node.op, Op::LinearUpdate(_) | Op::MultiUpdate(_)));
    nodes.map(|node| node.op.name()).collect()
}

/// Root of the sum of squares.
fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// A step's inputs.
struct Batch {
    pictures: Tensor,
    labels: Tensor,
    counter: [u32; 4],
    schedule: [f32; 4],
}

/// Loss and logits of each step. The parameters are on the device; the states start at 0.
fn run(
    device: &mut dyn Device,
    train: &TrainGraph,
    batches: impl IntoIterator<Item = Batch>,
) -> Outcome<Vec<Vec<Tensor>>> {
    for (name, ty) in &train.states {
        device.set(name, &Tensor::zeros(ty).map_err(convoy::Error::device)?)?;
    }
    let mut program = device.compile(&train.graph, &[train.loss, train.logits])?;
    let step = |batch: Batch| {
        program.write(train.pictures, &batch.pictures)?;
        program.write(train.labels, &batch.labels)?;
        program.write(train.counter, &Tensor::u32([4], batch.counter.to_vec())?)?;
        program.write(train.schedule, &Tensor::f32([4], batch.schedule.to_vec())?)?;
        let ticket = program.submit()?;
        Ok(program.outputs(ticket, true)?.expect("waited for"))
    };
    batches.into_iter().map(step).collect()
}
