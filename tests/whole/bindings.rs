//! Values larger than one binding: a device that may bind little at once computes what it does without the limit.

use crate::common;
use crate::common::training::train;
use convoy::backend::Device;
use convoy::backend::DeviceOptions;
use convoy::models::OptimizerConfig;
use convoy::ops::case::Case;
use convoy::ops::{Op, draw};
use convoy::selftest::{Prepared, Wrong};
use convoy::tensor::TensorType;

/// The device under test, as if it could bind no more than this many bytes at once, and run 5 workgroups side by side.
fn limited(bytes: u64, gpu_kernels: bool) -> Box<dyn Device> {
    let max_binding_bytes = Some(bytes);
    common::gpu_with(DeviceOptions {
        max_binding_bytes,
        grid_side: Some(5),
        gpu_kernels,
        poison: true,
        ..DeviceOptions::default()
    })
}

/// What a picture of the narrow AlexNet takes, 3 x 67 x 67 f32, and a little more: a device must bind one at once.
const ONE_PICTURE: u64 = 56 * 1024;

/// Weights, moments, activations and pictures have layers that are larger than the limit.
#[test]
fn a_training_under_a_small_limit_gives_the_same_numbers() {
    for optimizer in [OptimizerConfig::sgd(0.9, 5e-4), OptimizerConfig::adamw(0.01)] {
        let whole = train(&mut *common::gpu(), &optimizer, 1e-3, 4);
        let parts = train(&mut *limited(ONE_PICTURE, false), &optimizer, 1e-3, 4);
        common::compare("losses", &parts.losses, &whole.losses, (0.0, 1e-5)).unwrap();
        let largest = whole.values.iter().map(|(_, tensor)| tensor.bytes().len() as u64).max();
        assert!(largest > Some(3 * ONE_PICTURE), "nothing had to be cut: the largest value has {largest:?} bytes");
        for ((name, whole), (_, parts)) in whole.values.iter().zip(&parts.values) {
            common::compare(name, &common::as_f64(parts), &common::as_f64(whole), (1e-6, 1e-4)).unwrap();
        }
    }
}

/// Ops that work element by element, the optimizers among them, and reductions.
const NEVER_REFUSED: [&str; 22] = [
    "add",
    "mul",
    "scale",
    "fill",
    "broadcast",
    "sum",
    "mean",
    "dropout",
    "running_average",
    "sgd",
    "adam",
    "adamw",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "tanh",
    "tanh_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "gelu",
    "gelu_backward",
];

/// The types of a case's inputs and outputs.
fn types(case: &Case) -> Vec<TensorType> {
    let mut types = case.types();
    types.extend(case.op.infer(&types).expect("the case's shapes agree"));
    types
}

/// Whether a device that binds no more than `limit` bytes may refuse the case: where a row of a value (a picture, an output's
/// weights), or a vector, does not fit, with what the alignment of its window takes.
fn may_refuse(case: &Case, limit: u64) -> bool {
    let types = types(case);
    let row = |ty: &TensorType| ty.bytes() / if ty.shape.len() > 1 { ty.shape[0] } else { 1 };
    match case.op.name() {
        "bias" => types[1].bytes() as u64 > limit,
        name if NEVER_REFUSED.contains(&name) => false,
        _ => types.iter().any(|ty| row(ty) as u64 + 256 > limit),
    }
}

/// Every case, fixed and random, is right, or refused with an error that says so, where it may be. Values of more than 30 windows
/// take minutes and show nothing that those of a few do not.
#[test]
fn every_op_under_a_small_limit_is_right_or_refuses() {
    let limits = [(4 * 1024, false), (ONE_PICTURE, false), (ONE_PICTURE, true)];
    // Beside each other: this is the last test of its file to end.
    let failures = std::thread::scope(|scope| {
        let started = limits.map(|(limit, gpu_kernels)| scope.spawn(move || wrong_within(limit, gpu_kernels)));
        started.into_iter().flat_map(|thread| thread.join().expect("a panic is told above")).collect()
    });
    common::assert_none(failures);
}

/// What is wrong on a device that binds no more than `limit` bytes.
fn wrong_within(limit: u64, gpu_kernels: bool) -> Vec<String> {
    let (mut failures, mut right, mut refused) = (Vec::new(), 0, 0);
    let mut device = limited(limit, gpu_kernels);
    let drawn = draw::cases(1, 12).map(|(_, case, _)| case);
    let few = |case: &Case| types(case).iter().all(|ty| ty.bytes() as u64 <= 30 * limit);
    for case in Op::all_cases().into_iter().chain(drawn).filter(few) {
        let label = format!("{} within {limit} bytes", case.label());
        let refusable = may_refuse(&case, limit);
        match Prepared::of(case, 1).check(&mut *device) {
            Ok(_) => right += 1,
            Err(Wrong::Element(mismatch)) => failures.push(format!("{label}: {mismatch}")),
            Err(Wrong::Step(message)) if refusable && message.contains("binds at most") => refused += 1,
            Err(Wrong::Step(message)) => failures.push(format!("{label}: {message}")),
        }
    }
    println!("within {limit} bytes: {right} right, {refused} refused");
    failures
}
