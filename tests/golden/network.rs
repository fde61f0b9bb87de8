//! Fixtures of whole networks: a small one through many steps.

use convoy::backend::Device;
use convoy::models::{BuildOptions, Model, OptimizerConfig, TrainGraph, train_graph};
use convoy::tensor::Tensor;
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

/// Losses and last weights of a training that starts from given weights.
pub fn check_training(device: &mut dyn Device, fixture: &Fixture) -> Outcome<()> {
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
    Ok(())
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
        device.set(name, &Tensor::zeros(ty))?;
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
