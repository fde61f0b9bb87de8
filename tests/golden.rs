//! convoy against oracles from outside: every case that `tests/golden/make.py` wrote from PyTorch to `CONVOY_GOLDEN` (default:
//! `tests/golden/data`), and ONNX's node tests, which `tests/golden/onnx_nodes.py` wrote to `tests/golden/onnx`.

mod common;
#[path = "golden/fixture.rs"]
mod fixture;
#[path = "golden/graph.rs"]
mod graph;
#[path = "golden/network.rs"]
mod network;
#[path = "golden/optimizer.rs"]
mod optimizer;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use convoy::backend::Device;
use convoy::selftest::{Selection, coverage};
use fixture::Fixture;

/// Checks all cases; returns the ops that ran, apart from whole networks. Those get a device of their own, which keeps parameters by
/// name.
fn check_all(open: fn() -> Box<dyn Device>, cases: &[Fixture]) -> BTreeSet<&'static str> {
    let device = &mut *open();
    let mut ran = BTreeSet::new();
    let mut failures = Vec::new();
    for case in cases {
        let result = match case.kind.as_str() {
            "graph" => graph::check(device, case),
            "optimizer" => optimizer::check(device, case),
            "training" => network::check_training(&mut *open(), case),
            "step" => network::check_step(&mut *open(), case),
            other => panic!("{}: kind {other} is not known to this test", case.name()),
        };
        match result {
            Ok(ops) => ran.extend(ops),
            Err(e) => failures.push(format!("{}: {e}", case.name())),
        }
    }
    common::assert_none(failures);
    ran
}

/// The folder `name` beside this file.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// All of `make.py`'s cases, and among them each of the crate's ops and the whole networks.
fn check_pytorch(open: fn() -> Box<dyn Device>) {
    let folder = std::env::var_os("CONVOY_GOLDEN").map_or_else(|| folder("data"), PathBuf::from);
    let cases = Fixture::read_all(&folder);
    let ran = check_all(open, &cases);
    // An op with a gradient rule has a file; one without may have run in another's: most are gradients.
    let rows = coverage(&Selection::default());
    let has_file = |op: &str| cases.iter().any(|case| case.file == op);
    let missing = rows.iter().filter(|row| !ran.contains(&*row.op) || (row.gradient.is_some() && !has_file(&row.op)));
    let networks = ["training", "step"].into_iter().filter(|kind| !has_file(kind));
    let missing: Vec<&str> = missing.map(|row| row.op.as_str()).chain(networks).collect();
    assert!(missing.is_empty(), "{}: no case of {missing:?}; tests/golden/make.py writes them", folder.display());
}

#[test]
fn cpu_agrees_with_pytorch() {
    check_pytorch(common::cpu);
}

#[test]
fn gpu_agrees_with_pytorch() {
    check_pytorch(common::gpu);
}

/// Each of ONNX's tests that the table does not say why it was left out of.
fn check_onnx(open: fn() -> Box<dyn Device>) {
    let cases = Fixture::read_all(&folder("onnx"));
    let table = std::fs::read_to_string(folder("onnx/tests.tsv")).expect("onnx_nodes.py writes it");
    let used = table.lines().skip(1).filter_map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
        [_, test, ""] => Some(test),
        [_, _, _] => None,
        _ => panic!("tests.tsv: {line}"),
    });
    assert_eq!(cases.iter().map(|case| &*case.case).collect::<BTreeSet<_>>(), used.collect());
    check_all(open, &cases);
}

#[test]
fn cpu_agrees_with_onnx() {
    check_onnx(common::cpu);
}

#[test]
fn gpu_agrees_with_onnx() {
    check_onnx(common::gpu);
}
