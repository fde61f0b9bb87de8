//! What the tests share: the devices to run on, the element-by-element comparison, one-op graphs, a short training, and
//! the binary.
#![allow(dead_code)] // each test file uses its own part

pub mod binary;
pub mod training;

use std::collections::HashMap;

use convoy::backend::cpu::CpuDevice;
use convoy::backend::wgpu::adapter::adapters;
use convoy::backend::wgpu::{WgpuDevice, WgpuOptions};
use convoy::backend::{Device, select};
use convoy::graph::{Graph, Role, ValueId};
use convoy::ops::Op;
use convoy::ops::case::Case;
use convoy::tensor::{DType, Data, Tensor, TensorType};

/// The CPU backend on as many threads as the machine has.
pub fn cpu() -> Box<dyn Device> {
    Box::new(CpuDevice::new(None).expect("threads can be started"))
}

/// Selector of the wgpu device under test: `CONVOY_ADAPTER`, or the first Vulkan adapter, a software one too.
///
/// # Panics
/// With advice when there is none: kernels that no test ran are not tested.
pub fn gpu_selector() -> String {
    if let Ok(selector) = std::env::var("CONVOY_ADAPTER") {
        return selector;
    }
    let devices = select::list();
    match devices.iter().find(|d| d.backend == "vulkan") {
        Some(device) => device.index.to_string(),
        None => panic!(
            "no Vulkan adapter to test the shaders on. A software one will do; on Debian or Ubuntu:\n  \
             apt-get install -y mesa-vulkan-drivers\n\
             or name another device of `convoy adapters` by CONVOY_ADAPTER; found {:?}",
            devices.iter().map(|d| format!("{} ({})", d.name, d.backend)).collect::<Vec<_>>()
        ),
    }
}

/// The wgpu device under test, see [`gpu_selector`]; its fresh memory holds NaN.
pub fn gpu() -> Box<dyn Device> {
    gpu_with(WgpuOptions { poison: true, ..WgpuOptions::default() })
}

/// The same device with options of its own.
pub fn gpu_with(options: WgpuOptions) -> Box<dyn Device> {
    let selector = gpu_selector();
    let (device, _) = select::open(&selector).unwrap_or_else(|e| panic!("--adapter {selector}: {e}"));
    assert_ne!(device.info().backend, "cpu", "CONVOY_ADAPTER={selector} names no GPU interface: leave it unset");
    let info = device.info();
    let adapter = &adapters(info.backend == "gl")[info.index];
    Box::new(WgpuDevice::open(adapter, &options).unwrap_or_else(|e| panic!("--adapter {selector}: {e}")))
}

/// The tensor's elements as f64.
pub fn as_f64(tensor: &Tensor) -> Vec<f64> {
    convoy::ops::Array::from(tensor).data
}

/// Compares element by element: everything finite where `expected` is, then `|got - expected| <= atol + rtol * |expected|`.
/// The message names the worst element.
pub fn compare(what: &str, got: &[f64], expected: &[f64], (atol, rtol): (f64, f64)) -> Result<(), String> {
    if got.len() != expected.len() {
        return Err(format!("{what}: {} elements, expected {}", got.len(), expected.len()));
    }
    if let Some(i) = (0..got.len()).find(|&i| expected[i].is_finite() && !got[i].is_finite()) {
        return Err(format!("{what}: element {i} is {}, expected {}", got[i], expected[i]));
    }
    let excess = |i: usize| (got[i] - expected[i]).abs() / (atol + rtol * expected[i].abs());
    // NaN is wrong too; equal infinities have no difference to measure.
    let off = |i: usize| got[i] != expected[i] && (excess(i).is_nan() || excess(i) > 1.0);
    let wrong: Vec<usize> = (0..got.len()).filter(|&i| off(i)).collect();
    let Some(&worst) = wrong.iter().max_by(|&&a, &&b| excess(a).total_cmp(&excess(b))) else { return Ok(()) };
    Err(format!(
        "{what}: {} of {} elements are off; the worst, {worst}: got {}, expected {}, {:.1} times the tolerance \
         {atol:.1e} + {rtol:.1e} * |expected|; the first is {}",
        wrong.len(),
        got.len(),
        got[worst],
        expected[worst],
        excess(worst),
        wrong[0],
    ))
}

/// Fails with every message at once, so that one run shows all that is wrong.
pub fn assert_none(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// A graph of one op.
pub struct OneOp {
    /// The graph.
    pub graph: Graph,
    /// The op's inputs.
    pub inputs: Vec<ValueId>,
    /// The op's outputs.
    pub outputs: Vec<ValueId>,
}

impl OneOp {
    /// `op` on sources named by `label`. What it updates in place is a parameter, as in a training graph; the rest are
    /// inputs. A device keeps parameters by name, so labels differ where one device runs several graphs.
    pub fn new(label: &str, op: &Op, types: &[TensorType]) -> convoy::Result<OneOp> {
        let mut graph = Graph::new();
        let inputs = types
            .iter()
            .enumerate()
            .map(|(n, ty)| {
                let role = if updates(op, n) { Role::Parameter } else { Role::Input };
                graph.source(&format!("{label} input.{n}"), ty.clone(), role)
            })
            .collect::<convoy::Result<Vec<_>>>()?;
        let outputs = graph.apply_all(label, op.clone(), &inputs)?;
        Ok(OneOp { graph, inputs, outputs })
    }
}

/// Whether `op` overwrites its input `n` (an optimizer its weight; a view only shares memory).
fn updates(op: &Op, n: usize) -> bool {
    matches!(op, Op::Sgd(_) | Op::Adam(_)) && op.aliases().iter().any(|&(_, input)| input == n)
}

/// Runs one step of `graph` on `device` with these values for its sources, and returns the outputs.
///
/// A first step on NaN leaves NaN in all memory of the program: what a kernel forgets to write, or reads beyond an
/// input's end, shows in the second. Inputs must come out of the step as they went in.
pub fn run(
    device: &mut dyn Device,
    graph: &Graph,
    given: &HashMap<ValueId, Tensor>,
    outputs: &[ValueId],
) -> Result<Vec<Tensor>, String> {
    let text = |e: convoy::Error| e.to_string();
    let resident = |v: &ValueId| matches!(graph[*v].role, Role::Parameter | Role::State);
    for (v, tensor) in given.iter().filter(|(v, _)| resident(v)) {
        device.set(&graph[*v].name, &poisoned(tensor)).map_err(text)?;
    }
    let inputs: Vec<ValueId> = graph.with_role(Role::Input).collect();
    let read: Vec<ValueId> = outputs.iter().chain(&inputs).copied().collect();
    let mut program = device.compile(graph, &read).map_err(text)?;
    for poison in [true, false] {
        for (v, tensor) in given {
            let tensor = if poison { &poisoned(tensor) } else { tensor };
            match resident(v) {
                true => device.set(&graph[*v].name, tensor),
                false => program.write(*v, tensor),
            }
            .map_err(text)?;
        }
        let ticket = program.submit().map_err(text)?;
        let mut found = program.outputs(ticket, true).map_err(text)?.expect("waited for");
        if !poison {
            for (input, after) in inputs.iter().zip(found.split_off(outputs.len())) {
                if after.bytes() != given[input].bytes() {
                    return Err(format!("the step changed its input {}", graph[*input].name));
                }
            }
            return Ok(found);
        }
    }
    unreachable!("the second step returns")
}

/// What messages call a case.
pub fn label(case: &Case) -> String {
    format!("{} [{}]", case.op.name(), case.name)
}

/// [`run`] for a case of one op.
pub fn run_case(device: &mut dyn Device, case: &Case, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let types: Vec<TensorType> = inputs.iter().map(Tensor::ty).collect();
    let one = OneOp::new(&label(case), &case.op, &types).map_err(|e| e.to_string())?;
    let given = one.inputs.iter().copied().zip(inputs.iter().cloned()).collect();
    run(device, &one.graph, &given, &one.outputs)
}

/// NaN in place of every float; labels, pixels and counters stay, since they index.
fn poisoned(tensor: &Tensor) -> Tensor {
    match tensor.data() {
        Data::F32(v) => Tensor::f32(tensor.shape().clone(), vec![f32::NAN; v.len()]).expect("same shape"),
        _ => tensor.clone(),
    }
}

/// Whether a value can have a gradient.
pub fn is_f32(ty: &TensorType) -> bool {
    ty.dtype == DType::F32
}
