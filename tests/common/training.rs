//! A short training of a narrow AlexNet with all that a step has: random crops and flips, dropout, an optimizer with state.

use convoy::backend::Device;
use convoy::graph::fuse::Rewrites;
use convoy::models::{BuildOptions, Model, OptimizerConfig, train_graph};
use convoy::ops::Crop;
use convoy::rng::{Philox, stream};
use convoy::tensor::Tensor;

/// Pictures in a step.
const BATCH: usize = 4;
/// Classes.
const CLASSES: usize = 3;
/// Height and width of the stored pictures; the network sees 67 x 67 of them.
const STORED: usize = 75;
/// Of weights, dropout and augmentation; above 2^32, so that both halves of the key matter.
const SEED: u64 = 0x1234_5678_9ABC_DEF0;

/// What a training left.
pub struct Trained {
    /// Loss of each step.
    pub losses: Vec<f64>,
    /// Parameters and optimizer state at the end: name and values.
    pub values: Vec<(String, Tensor)>,
}

/// Trains for `steps` steps on pictures that differ each step.
pub fn train(device: &mut dyn Device, optimizer: &OptimizerConfig, learning_rate: f64, steps: u32) -> Trained {
    train_with(device, optimizer, learning_rate, steps, Rewrites::default())
}

/// [`train`] with these rewrites of the graph only.
pub fn train_with(
    device: &mut dyn Device,
    optimizer: &OptimizerConfig,
    learning_rate: f64,
    steps: u32,
    rewrites: Rewrites,
) -> Trained {
    let model = Model::parse(include_str!("narrow.toml"), "narrow.toml").unwrap();
    let options = BuildOptions {
        stored_size: Some([STORED; 2]),
        crop: Crop::Resized { min_area: 0.35 },
        flip: true,
        rewrites,
        ..BuildOptions::new(BATCH, CLASSES)
    };
    let train = train_graph(&model, &options, optimizer, 0.1).unwrap();
    for parameter in &train.parameters {
        device.set(&parameter.name, &parameter.initial(SEED).unwrap()).unwrap();
    }
    for (name, ty) in &train.states {
        device.set(name, &Tensor::zeros(ty).unwrap()).unwrap();
    }
    let mut program = device.compile(&train.graph, &[train.loss]).unwrap();
    let mut losses = Vec::new();
    for step in 0..steps {
        let (pictures, labels) = batch(step);
        let counter = Tensor::u32([4], vec![SEED as u32, (SEED >> 32) as u32, step, 0]).unwrap();
        let schedule = optimizer.schedule(learning_rate, u64::from(step) + 1);
        program.write(train.pictures, &pictures).unwrap();
        program.write(train.labels, &labels).unwrap();
        program.write(train.counter, &counter).unwrap();
        program.write(train.schedule, &Tensor::f32([4], schedule.to_vec()).unwrap()).unwrap();
        let ticket = program.submit().unwrap();
        let outputs = program.outputs(ticket, true).unwrap().expect("waited for");
        losses.push(super::as_f64(&outputs[0])[0]);
    }
    let names =
        train.parameters.iter().map(|p| p.name.clone()).chain(train.states.iter().map(|(name, _)| name.clone()));
    let values = names.map(|name| (name.clone(), device.get(&name).unwrap())).collect();
    Trained { losses, values }
}

/// Noisy pictures whose brightness tells the class, and their labels.
fn batch(step: u32) -> (Tensor, Tensor) {
    let random = Philox { seed: 6, stream: stream::TEST, step };
    let labels: Vec<u32> = (0..BATCH as u32).map(|n| (step + n) % CLASSES as u32).collect();
    let picture = STORED * STORED * 3;
    let pixel = |i: usize| (random.word(i as u32) % 100 + 70 * labels[i / picture]) as u8;
    let pixels = (0..BATCH * picture).map(pixel).collect();
    let pictures = Tensor::new([BATCH, STORED, STORED, 3], convoy::tensor::Data::U8(pixels)).unwrap();
    (pictures, Tensor::u32([BATCH], labels).unwrap())
}
