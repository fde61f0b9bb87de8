//! The two backends are one program: the same losses to rounding, and each repeats itself to the bit.

use crate::common;
use crate::common::binary::Place;
use crate::common::training::{train, train_with};
use convoy::backend::DeviceOptions;
use convoy::graph::fuse::Rewrites;
use convoy::models::OptimizerConfig;

/// Twenty steps with crops, flips and dropout: any difference in a random number would show at once.
#[test]
fn the_first_losses_agree() {
    for (name, optimizer, learning_rate) in [
        ("sgd", OptimizerConfig::sgd(0.9, 5e-4), 0.01),
        ("paper", OptimizerConfig::paper(), 0.01),
        ("adamw", OptimizerConfig::adamw(0.01), 1e-3),
    ] {
        let cpu = train(&mut *common::cpu(), &optimizer, learning_rate, 20);
        let gpu = train(&mut *common::gpu(), &optimizer, learning_rate, 20);
        common::compare(name, &gpu.losses, &cpu.losses, (0.0, 1e-4)).unwrap();
    }
}

/// The same numbers, whatever the number of threads: the order of every sum is fixed.
#[test]
fn the_number_of_threads_changes_nothing() {
    let on = |threads| {
        let mut device = convoy::backend::cpu::CpuDevice::new(Some(threads)).unwrap();
        train(&mut device, &OptimizerConfig::sgd(0.9, 0.0), 0.01, 3)
    };
    let (one, three) = (on(1), on(3));
    assert_eq!(one.losses, three.losses);
    assert!(one.values == three.values, "weights differ");
}

/// The same command twice on one device: byte-identical `last.safetensors`.
#[test]
fn a_command_repeats_to_the_bit() {
    let place = Place::new();
    place.pictures("pictures", 4);
    for adapter in ["cpu".to_string(), common::gpu_selector()] {
        let last = |run: &str| {
            let options = "--model four-layer --image-size 32 --batch-size 4 --dropout 0.5 --seed 3";
            place
                .convoy(&format!("train pictures {options} --max-steps 4 --adapter {adapter} --out . --name {run}"))
                .ok();
            place.read(&format!("{run}/last.safetensors"))
        };
        assert!(last(&format!("one{adapter}")) == last(&format!("two{adapter}")), "--adapter {adapter}");
    }
}

/// Rewrites of the graph change no bit on the CPU: what is fused adds up in the same order. On a GPU another kernel may round
/// otherwise, where its compiler fuses a product and a sum in one and not in the other.
#[test]
fn rewrites_change_nothing() {
    for optimizer in [OptimizerConfig::sgd(0.9, 5e-4), OptimizerConfig::adamw(0.01)] {
        for (open, rtol) in [(common::cpu as fn() -> _, 0.0), (common::gpu, 1e-4)] {
            let run = |rewrites| train_with(&mut *open(), &optimizer, 1e-3, 3, rewrites);
            let plain = run(Rewrites::NONE);
            for rewrites in [
                Rewrites { linear_update: true, ..Rewrites::NONE },
                Rewrites { multi_update: true, ..Rewrites::NONE },
                Rewrites { epilogues: true, ..Rewrites::NONE },
                Rewrites { early_updates: true, ..Rewrites::NONE },
                Rewrites::default(),
            ] {
                let rewritten = run(rewrites);
                let check = |what: &str, got: &[f64], expected: &[f64]| {
                    let what = format!("{what} with {rewrites:?}");
                    common::compare(&what, got, expected, (rtol * 1e-2, rtol)).unwrap();
                };
                check("losses", &rewritten.losses, &plain.losses);
                for ((name, plain), (_, rewritten)) in plain.values.iter().zip(&rewritten.values) {
                    check(name, &common::as_f64(rewritten), &common::as_f64(plain));
                }
            }
        }
    }
}

/// What a driver compiled is kept and used, and a file that is spoilt does no harm.
#[test]
fn what_a_driver_compiled_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let losses = || {
        let options = DeviceOptions { pipelines: Some(folder.path().into()), ..DeviceOptions::default() };
        let mut device = common::gpu_with(options);
        let losses = train(&mut *device, &OptimizerConfig::sgd(0.9, 0.0), 0.01, 2).losses;
        drop(device);
        let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        (losses, files)
    };
    let (expected, files) = losses();
    let [file] = &files[..] else { return assert!(files.is_empty(), "{files:?}") }; // an interface without
    let bytes = std::fs::read(file).unwrap();
    assert_eq!(losses(), (expected.clone(), files.clone()));
    for spoilt in [&bytes[..bytes.len() / 2], &[], b"Hello, pipelines", &[&bytes[..bytes.len() - 1], &[9]].concat()] {
        std::fs::write(file, spoilt).unwrap();
        assert_eq!(losses(), (expected.clone(), files.clone()));
        assert!(std::fs::read(file).unwrap().len() > 8);
    }
}
