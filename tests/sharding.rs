//! Values larger than one binding: a device that may bind little at once computes what it does without the limit.

mod common;

use common::training::train;
use convoy::backend::Device;
use convoy::backend::wgpu::WgpuOptions;
use convoy::models::OptimizerConfig;
use convoy::ops::{Array, Op};

/// The device under test, as if it could bind no more than this many bytes at once.
fn limited(bytes: u64) -> Box<dyn Device> {
    common::gpu_with(WgpuOptions { max_binding_bytes: Some(bytes), poison: true, ..WgpuOptions::default() })
}

/// Less than the narrow AlexNet's largest weights, moments and activations have, and enough for one picture's largest activation.
const LIMIT: u64 = 64 * 1024;

#[test]
fn a_training_under_a_small_limit_gives_the_same_numbers() {
    for optimizer in [OptimizerConfig::sgd(0.9, 5e-4), OptimizerConfig::adamw(0.01)] {
        let whole = train(&mut *common::gpu(), &optimizer, 1e-3, 4);
        let parts = train(&mut *limited(LIMIT), &optimizer, 1e-3, 4);
        common::compare("losses", &parts.losses, &whole.losses, (0.0, 1e-5)).unwrap();
        let largest = whole.values.iter().map(|(_, tensor)| tensor.bytes().len()).max();
        assert!(largest > Some(LIMIT as usize), "nothing had to be cut: the largest value has {largest:?} bytes");
        for ((name, whole), (_, parts)) in whole.values.iter().zip(&parts.values) {
            common::compare(name, &common::as_f64(parts), &common::as_f64(whole), (1e-6, 1e-4)).unwrap();
        }
    }
}

/// Every case under a limit that cuts most of them: right, or refused with an error that says so. Ops that work
/// element by element are never refused; the others where one picture, row of a batch or output's weights are too large.
#[test]
fn every_op_under_a_small_limit_is_right_or_refuses() {
    let never_refused = [
        "bias",
        "relu",
        "relu_backward",
        "sigmoid",
        "sigmoid_backward",
        "tanh",
        "tanh_backward",
        "dropout",
        "add",
        "mul",
        "scale",
        "fill",
        "broadcast",
        "sum",
        "mean",
        "sgd",
        "adam",
        "adamw",
    ];
    let mut device = limited(4096);
    let (mut failures, mut refused) = (Vec::new(), Vec::new());
    for case in Op::all_cases() {
        let label = common::label(&case);
        let inputs = case.tensors(1);
        match common::run_case(&mut *device, &case, &inputs) {
            Ok(found) => {
                let expected = case.op.reference(&inputs.iter().map(Array::from).collect::<Vec<_>>());
                for (got, expected) in found.iter().zip(&expected) {
                    failures
                        .extend(common::compare(&label, &common::as_f64(got), &expected.data, case.tolerance()).err());
                }
            }
            Err(message) if !message.contains("binds at most") => failures.push(format!("{label}: {message}")),
            Err(message) => {
                if never_refused.contains(&case.op.name()) {
                    failures.push(format!("{label}: {message}"));
                }
                refused.push(label);
            }
        }
    }
    println!("refused under 4096 bytes: {refused:#?}");
    common::assert_none(failures);
}
