//! Every case of every op, fixed and random, on every backend: against the f64 reference, element by element. `convoy selftest`
//! runs the same.

mod common;
#[path = "../src/backend/wgpu/compose.rs"]
mod compose;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

use convoy::backend::cpu::CpuDevice;
use convoy::backend::wgpu::Matrices;
use convoy::backend::{DeviceOptions, Precision};
use convoy::ops::case::Case;
use convoy::ops::{Op, draw};
use convoy::selftest::{Kind, Prepared, Selection, Suite, coverage, gradient, harness};
use convoy::tensor::Tensor;

/// All cases, evaluated once for all devices; the random ones of `CONVOY_SEED`.
static SUITE: LazyLock<Suite> = LazyLock::new(|| Suite::new(&Selection { seed: seed(), ..Selection::default() }));

fn seed() -> u64 {
    std::env::var("CONVOY_SEED").map_or(1, |seed| seed.parse().expect("CONVOY_SEED is a number"))
}

#[test]
fn the_cpu_is_right() {
    let report = SUITE.run(&mut *common::cpu(), |_| {});
    println!("seed {}, {}: {} cases", report.seed, report.device.name, report.cases);
    common::assert_none(report.failures.iter().map(ToString::to_string).collect());
    assert_eq!(report.failed, 0);
}

#[test]
fn the_gpu_is_right() {
    check_and_with_checks(&Kind::plain(), |_| true);
}

/// The kernels that GPUs use, also where the device under test is software and has kernels of its own. WebGPU's default limits are
/// enough for them. What is in pieces is so for software's sake: for these kernels other cases are.
#[test]
fn kernels_for_gpus_are_right() {
    let options = DeviceOptions { poison: true, gpu_kernels: true, default_limits: true, ..DeviceOptions::default() };
    check_and_with_checks(&Kind::new("kernels for GPUs", options), |case| !case.name.ends_with("in pieces"));
}

/// Every case that a kind of the device takes. Checks of indices, divisors and loops, and cleared workgroup memory, change no bit: no kernel
/// reads or writes outside its windows, and none uses workgroup memory that it has not written. Large cases reach no other edges than small
/// ones, and would take as long as all of them.
fn check_and_with_checks(kind: &Kind, wanted: impl Fn(&Case) -> bool) {
    let mut device = common::gpu_with(kind.options.clone());
    let mut checked = common::gpu_with(DeviceOptions { checked: true, ..kind.options.clone() });
    let mut times = BTreeMap::new();
    let mut check = |prepared: &Prepared| -> Result<(), String> {
        let (start, case) = (Instant::now(), &prepared.case);
        let found = prepared.run(&mut *device)?;
        prepared.judge(&found, &*device).map_err(|wrong| wrong.to_string())?;
        *times.entry(case.op.name()).or_insert(0) += start.elapsed().as_millis();
        let small = case.op.macs(&case.types()) <= 4_000_000;
        match small && !same_bits(&found, &prepared.run(&mut *checked)?) {
            true => Err("not the same bits with run-time checks".into()),
            false => Ok(()),
        }
    };
    let cases: Vec<_> = SUITE.cases().iter().filter(|it| kind.takes(&it.case) && wanted(&it.case)).collect();
    let wrong = |it: &&Prepared| Some(format!("{}: {}", it.case.label(), check(it).err()?));
    let failures = cases.iter().filter_map(wrong).collect();
    println!("seed {}, {} {}: {} cases; ms by op: {times:?}", seed(), device.info().name, kind.name, cases.len());
    common::assert_none(failures);
}

fn same_bits(one: &[Tensor], other: &[Tensor]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| harness::same_bits(one, other))
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
    common::assert_none(check_cases(kind, |case| kind.takes(case)));
}

/// What is wrong with the wanted cases, of which there are some.
fn check_cases(kind: &Kind, wanted: impl Fn(&Case) -> bool) -> Vec<String> {
    let start = Instant::now();
    let cases: Vec<_> = SUITE.cases().iter().filter(|prepared| wanted(&prepared.case)).collect();
    assert!(!cases.is_empty(), "{}", kind.name);
    let mut device = common::gpu_with(kind.options.clone());
    let wrong = |prepared: &&Prepared| {
        let error = prepared.check_on(kind, &mut *device).err()?;
        Some(format!("{}, {}: {error}", kind.name, prepared.case.label()))
    };
    let found = cases.iter().filter_map(wrong).collect();
    println!("{}: {} cases in {:?}", kind.name, cases.len(), start.elapsed());
    found
}

/// The kernels of matrices that subgroups multiply at once, with functions of sums in these functions' place: no software device has
/// them. Of subgroups of 32 and of 64, a workgroup has four and two; software's are smaller, so that some idle. A long sum would be more
/// iterations than some drivers run.
#[test]
fn kernels_of_matrices_are_right() {
    let options = |candidate, precision, size, subgroup| DeviceOptions {
        poison: true,
        gpu_kernels: true,
        candidate,
        precision,
        matrices: Some(Matrices { size, subgroup }),
        replace: [with_sums(precision, |text| text)].into(),
        ..Default::default()
    };
    let wanted = |ops: &'static str| {
        move |case: &Case| {
            let macs = case.op.macs(&case.types());
            let is_product = macs > 0 && case.op.name().starts_with(ops) && case.op.name() != "linear_update";
            is_product && macs <= 10_000 && !case.name.starts_with("a sum in parts")
        }
    };
    // The last of a convolution's kernels, and of a fully connected layer's.
    let f16 = Precision::F16 { loss_scale: 8.0 };
    for (ops, options) in [
        ("conv2d", options(10, Precision::F32, 8, 32)),
        ("conv2d", options(11, Precision::F32, 8, 32)),
        ("linear", options(5, Precision::F32, 8, 64)),
        ("linear", options(5, f16, 16, 32)),
    ] {
        let name = format!("{ops}, kernel {}, {:?}", options.candidate, options.matrices);
        common::assert_none(check_cases(&Kind::new(name, options), wanted(ops)));
    }
    // It is these functions that run.
    let options = DeviceOptions {
        replace: [with_sums(Precision::F32, |text| text.replace("sum +=", "sum -="))].into(),
        ..options(5, Precision::F32, 8, 32)
    };
    let wrong = check_cases(&Kind::new("subtracted", options), wanted("linear"));
    assert!(wrong.len() > 10, "only {} cases are wrong", wrong.len());
}

/// The text of the kernels of matrices, and what runs in its place.
fn with_sums(precision: Precision, changed: impl Fn(String) -> String) -> (String, String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compose = |read: compose::Read| {
        let path = folder.join("shaders/conv2d_matrices.wgsl");
        match precision {
            Precision::F32 => compose::Source::compose(&path, read).unwrap(),
            _ => compose::Source::compose_f16(&path, read).unwrap().unwrap(),
        }
        .text
    };
    let own = compose(&|path| fs::read_to_string(path));
    let sums = compose(&|path| match path.ends_with("matrices.wgsl") {
        true => fs::read_to_string(folder.join("tests/common/matrices.wgsl")).map(&changed),
        false => fs::read_to_string(path),
    });
    (own, sums)
}

/// The number of threads changes no bit.
#[test]
fn threads_change_nothing() {
    let [mut one, mut two, mut three] = [1, 2, 3].map(|n| CpuDevice::new(Some(n)).unwrap());
    let mut failures = Vec::new();
    for prepared in SUITE.cases() {
        let run = |device| prepared.run(device).unwrap_or_else(|e| panic!("{}: {e}", prepared.case.label()));
        let alone = run(&mut one);
        let same = same_bits(&alone, &run(&mut two)) && same_bits(&alone, &run(&mut three));
        failures.extend((!same).then(|| prepared.case.label()));
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
