//! Every case of every op, fixed and random, on every backend: against the f64 reference, element by element. `convoy selftest`
//! runs the same.

mod common;

use std::sync::LazyLock;
use std::time::Instant;

use convoy::backend::Device;
use convoy::backend::DeviceOptions;
use convoy::backend::cpu::CpuDevice;
use convoy::ops::case::Case;
use convoy::ops::{Op, draw};
use convoy::selftest::{Kind, Prepared, Selection, Suite, coverage, gradient, harness};

/// All cases, evaluated once for all devices; the random ones of `CONVOY_SEED`.
static SUITE: LazyLock<Suite> = LazyLock::new(|| Suite::new(&Selection { seed: seed(), ..Selection::default() }));

fn seed() -> u64 {
    std::env::var("CONVOY_SEED").map_or(1, |seed| seed.parse().expect("CONVOY_SEED is a number"))
}

fn check(device: &mut dyn Device) {
    let start = Instant::now();
    let report = SUITE.run(device, |_| {});
    let slowest = report.ops.iter().map(|op| format!("{} {:.0}", op.op, op.ms)).collect::<Vec<_>>().join(", ");
    println!("seed {}", report.seed);
    println!("{}: {} cases in {:?}; ms by op: {slowest}", report.device.name, report.cases, start.elapsed());
    common::assert_none(report.failures.iter().map(ToString::to_string).collect());
    assert_eq!(report.failed, 0);
}

#[test]
fn the_cpu_is_right() {
    check(&mut *common::cpu());
}

#[test]
fn the_gpu_is_right() {
    check(&mut *common::gpu());
}

/// The kernels that GPUs use, also where the device under test is software and has kernels of its own. WebGPU's default limits are
/// enough for them.
#[test]
fn kernels_for_gpus_are_right() {
    let options = DeviceOptions { poison: true, gpu_kernels: true, default_limits: true, ..DeviceOptions::default() };
    check_kind(&Kind::new("kernels for GPUs", options));
}

/// Where an op chooses between kernels, each of them is right.
#[test]
fn every_kernel_of_a_choice_is_right() {
    let kinds = other_kinds(|kind| kind.options.candidate > 0 && !kind.rounds());
    assert!(!kinds.is_empty());
    kinds.iter().for_each(check_kind);
}

/// With 16-bit floats too, where the device has them.
#[test]
fn every_kernel_of_16_bit_floats_is_right() {
    other_kinds(Kind::rounds).iter().for_each(check_kind);
}

fn other_kinds(wanted: impl Fn(&Kind) -> bool) -> Vec<Kind> {
    Kind::others(common::gpu().info()).into_iter().filter(wanted).collect()
}

/// Every case that a kind of the device takes.
fn check_kind(kind: &Kind) {
    let start = Instant::now();
    let cases: Vec<_> = SUITE.cases().iter().filter(|prepared| kind.takes(&prepared.case)).collect();
    assert!(!cases.is_empty(), "{}", kind.name);
    let mut device = common::gpu_with(kind.options.clone());
    let wrong = |prepared: &&Prepared| {
        Some(format!("{}: {}", prepared.case.label(), prepared.check_on(kind, &mut *device).err()?))
    };
    common::assert_none(cases.iter().filter_map(wrong).map(|wrong| format!("{}, {wrong}", kind.name)).collect());
    println!("{}: {} cases in {:?}", kind.name, cases.len(), start.elapsed());
}

/// Checks of indices, divisors and loops, and cleared workgroup memory, change no bit: no kernel reads or writes outside its
/// windows, and none uses workgroup memory that it has not written. Large cases reach no other edges than small ones, and would take as
/// long as all of them.
#[test]
fn run_time_checks_change_nothing() {
    for gpu_kernels in [true, false] {
        let options = |checked| DeviceOptions { poison: true, gpu_kernels, checked, ..DeviceOptions::default() };
        let kind = Kind::new("", options(true));
        let small = |case: &Case| case.op.macs(&case.types()) <= 4_000_000 && kind.takes(case);
        assert_same(&SUITE, small, &mut *common::gpu_with(options(true)), &mut *common::gpu_with(options(false)));
    }
}

/// The number of threads changes no bit.
#[test]
fn threads_change_nothing() {
    let threads = |n| CpuDevice::new(Some(n)).unwrap();
    for n in [2, 3] {
        assert_same(&SUITE, |_| true, &mut threads(1), &mut threads(n));
    }
}

fn assert_same(suite: &Suite, wanted: impl Fn(&Case) -> bool, one: &mut dyn Device, other: &mut dyn Device) {
    let mut failures = Vec::new();
    for prepared in suite.cases().iter().filter(|prepared| wanted(&prepared.case)) {
        let label = prepared.case.label();
        match (prepared.run(one), prepared.run(other)) {
            (Ok(one), Ok(other)) => {
                let same = one.iter().zip(&other).all(|(one, other)| harness::same_bits(one, other));
                failures.extend((!same).then(|| format!("{label}: not the same bits")));
            }
            (one, other) => failures.extend([one.err(), other.err()].into_iter().flatten()),
        }
    }
    common::assert_none(failures);
}

/// Every gradient rule against central differences of the f64 reference, with a random cotangent, on fixed and random shapes.
#[test]
fn gradients_agree_with_central_differences() {
    let check = |case: Case| gradient::check(&case, 2).err().map(|message| format!("{}: {message}", case.label()));
    let drawn = draw::cases(seed(), 12).map(|(_, case, _)| case.smooth());
    common::assert_none(Op::all_cases().into_iter().chain(drawn).filter_map(check).collect());
}

/// Every op of THE list has fixed and random cases, for which both backends have kernels, and one with a gradient rule has cases that
/// check it.
#[test]
fn no_op_is_left_out() {
    let rows = coverage(&Selection::default());
    let hole = |row: &&convoy::selftest::Coverage| {
        let incomplete = |backend: &str| row.backends[backend] != row.cases + row.random;
        row.cases == 0 || row.random == 0 || row.gradient == Some(0) || ["cpu", "wgsl"].into_iter().any(incomplete)
    };
    let holes: Vec<&str> = rows.iter().filter(hole).map(|row| row.op.as_str()).collect();
    assert!(holes.is_empty(), "too few cases: {holes:?}");
    // Nothing is differentiated twice, or through the pictures' preparation and the optimizers.
    let without_rule = |op: &str| {
        let others =
            ["fill", "augment", "mix", "sgd", "adam", "adamw", "linear_update", "multi_update", "running_average"];
        let fused = op.ends_with("_bias") || op.ends_with("_bias_relu"); // after the gradients are there
        fused || op.ends_with("_backward") || others.contains(&op)
    };
    for row in &rows {
        let backward = without_rule(&row.op) || row.op.contains("_backward_");
        assert_eq!(row.gradient.is_none(), backward, "{}: a gradient rule is missing, or new here", row.op);
    }
}
