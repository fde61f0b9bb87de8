//! Time of every fixed case of every op, AlexNet's layers among them, on one device: `CONVOY_ADAPTER`, or the CPU backend.
//!
//! `CONVOY_ADAPTER=vulkan cargo bench --bench ops -- conv2d`

use convoy::backend::{Device, Program, select};
use convoy::graph::Role;
use convoy::ops::Op;
use convoy::ops::case::Case;
use convoy::selftest::harness::OneOp;
use convoy::tensor::Tensor;
use criterion::{BenchmarkId, Criterion, Throughput};

fn main() {
    let selector = std::env::var("CONVOY_ADAPTER").unwrap_or("cpu".into());
    let (mut device, reason) = select::open(&selector).unwrap_or_else(|e| panic!("{e}"));
    println!("{}: {reason}", device.info().name);
    let mut criterion = Criterion::default().configure_from_args();
    for case in Op::all_cases() {
        let mut program = match program(&mut *device, &case) {
            Ok(program) => program,
            Err(error) => {
                println!("{}: left out: {error}", case.label());
                continue;
            }
        };
        let inputs: usize = case.inputs.iter().map(|input| input.ty.bytes()).sum();
        let mut group = criterion.benchmark_group(case.op.name());
        group.throughput(Throughput::Bytes(inputs as u64));
        group.bench_function(BenchmarkId::from_parameter(&case.name), |bencher| {
            bencher.iter(|| {
                let ticket = program.submit().expect("a step");
                program.outputs(ticket, true).expect("its outputs")
            })
        });
        group.finish();
    }
    criterion.final_summary();
}

/// A step of the case alone, its inputs written.
fn program(device: &mut dyn Device, case: &Case) -> convoy::Result<Box<dyn Program>> {
    let tensors = case.tensors(1);
    let types: Vec<_> = tensors.iter().map(Tensor::ty).collect();
    let OneOp { graph, inputs, outputs } = OneOp::new(&case.label(), &case.op, &types)?;
    let resident = |input| matches!(graph[input].role, Role::Parameter | Role::State);
    let given = || inputs.iter().copied().zip(&tensors);
    for (input, tensor) in given().filter(|&(input, _)| resident(input)) {
        device.set(&graph[input].name, tensor)?;
    }
    let mut program = device.compile(&graph, &outputs)?;
    for (input, tensor) in given().filter(|&(input, _)| !resident(input)) {
        program.write(input, tensor)?;
    }
    Ok(program)
}
