//! Speed of a network's training step or of its inference, on pictures made up in memory: as a whole, and node by node.

mod fed;

pub use fed::{Fed, Share, fed};

use std::collections::VecDeque;
use std::time::Instant;

use serde::Serialize;

use crate::backend::{Device, NodeTime, Program, Ticket};
use crate::error::{Error, Result};
use crate::graph::partition::Report as Exchange;
use crate::graph::plan::{self, Place};
use crate::graph::{Graph, Node, ValueId};
use crate::models::{BuildOptions, EvalGraph, Model, OptimizerConfig, eval_graph, train_graph};
use crate::rng::Philox;
use crate::tensor::{Tensor, TensorType};

/// Of weights and pictures.
const SEED: u64 = 1;

/// So small that no loss grows without bound on random pictures.
const LEARNING_RATE: f64 = 1e-5;

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Steps of training, two in flight: how many pictures a second the device learns from.
    Train,
    /// The forward pass, one batch after the other: how long a batch takes from the host's memory to its logits.
    Infer,
}

/// How to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// What is timed.
    pub mode: Mode,
    /// Batch, classes, size.
    pub build: BuildOptions,
    /// Of training.
    pub optimizer: OptimizerConfig,
    /// Steps not counted, after the first.
    pub warmup: usize,
    /// Steps counted; 1 or more.
    pub steps: usize,
    /// Whether to time each node too.
    pub profile: bool,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the device.
    pub adapter: String,
    /// `vulkan`, `metal`, `dx12`, `gl` or `cpu`.
    pub backend: String,
    /// Name of the model.
    pub model: String,
    /// What was timed.
    pub mode: Mode,
    /// Pictures in a step.
    pub batch: usize,
    /// Of what is computed: `f32`.
    pub precision: &'static str,
    /// At the median step.
    pub images_per_second: f64,
    /// The median step.
    pub ms_per_step: f64,
    /// Of the convolutions and fully connected layers, at the median step; a multiply-accumulate is two operations.
    pub gflops: f64,
    /// Of a device with its own memory what convoy allocated there; else the most that the process held, where the system tells.
    pub peak_memory_bytes: u64,
    /// From the graph to the first step's loss or logits: kernels are compiled, memory is allocated.
    pub first_step_ms: f64,
    /// Steps counted.
    pub steps: usize,
    /// Memory of the step's values, as the planner lets them share.
    pub slot_bytes: u64,
    /// Memory of the step's values, had each its own.
    pub value_bytes: u64,
    /// What the device's libraries refused: see [`Program::refused`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// What several devices send each other, and the memory that each needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<Exchange>,
    /// What the device's memory gives at best, with [`BenchOptions::profile`]: see [`Device::copy_gb_per_s`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_gb_per_s: Option<f64>,
    /// Each node's time, with [`BenchOptions::profile`]; the longest first.
    pub kernels: Vec<KernelTime>,
}

/// A node's time in one step.
#[derive(Clone, Debug, Serialize)]
pub struct KernelTime {
    /// Layer and operator.
    pub name: String,
    /// Dispatches.
    pub calls: usize,
    /// Of all of them.
    pub ms: f64,
    /// Part of all nodes' time, in [0, 1].
    pub share: f64,
    /// Two for each multiply-accumulate.
    pub gflops: f64,
    /// Inputs and outputs, each once.
    pub gb_per_s: f64,
}

/// The graph of a step that [`bench()`] times.
///
/// # Errors
/// Shape errors.
pub fn graph(model: &Model, options: &BenchOptions) -> Result<Graph> {
    match options.mode {
        Mode::Train => Ok(train_graph(model, &options.build, &options.optimizer, 0.0)?.graph),
        Mode::Infer => Ok(infer_graph(model, &options.build)?.graph),
    }
}

/// As a classifier runs it.
fn infer_graph(model: &Model, options: &BuildOptions) -> Result<EvalGraph> {
    eval_graph(model, &BuildOptions { fold: true, ..options.clone() })
}

/// Builds the network, sets first weights, and times its steps.
///
/// # Errors
/// Shape and device errors.
pub fn bench(device: &mut dyn Device, model: &Model, options: &BenchOptions) -> Result<Report> {
    if options.steps == 0 {
        return Err(Error::input("a bench of 0 steps: expected 1 or more"));
    }
    let Work { graph, outputs, inputs, resident_bytes } = Work::new(device, model, options)?;
    let exchange = device.exchange(&graph, &outputs)?;
    if options.profile && exchange.is_some() {
        return Err(Error::input(
            "several devices at once are not profiled: give one to --adapter, or leave --profile out",
        ));
    }
    let start = Instant::now();
    let mut run = Run { program: device.compile(&graph, &outputs)?, inputs, in_flight: VecDeque::new() };
    run.step(0)?;
    let first_step_ms = ms(start);
    let in_flight = match options.mode {
        Mode::Train => 1,
        Mode::Infer => 0,
    };
    // From here on each step waits for the one `in_flight` before it.
    (0..in_flight).try_for_each(|_| run.step(in_flight))?;
    let mut times = Vec::new();
    for step in 0..options.warmup + options.steps {
        let start = Instant::now();
        run.step(in_flight)?;
        if step >= options.warmup {
            times.push(ms(start));
        }
    }
    run.wait(0)?;
    let kernels = if options.profile { kernels(&graph, &run.program.profile()?) } else { Vec::new() };
    let process_peak = process_peak(); // before the copies
    // A device without room for it is not asked.
    let copy_gb_per_s = if options.profile { device.copy_gb_per_s().ok().flatten() } else { None };
    let ms_per_step = median(&mut times);
    let plan = plan::plan(&graph, &outputs);
    let in_slots = graph.values.iter().zip(&plan.places).filter(|(_, place)| matches!(place, Place::Slot(_)));
    let info = device.info();
    let own_memory = info.backend != "cpu" && !info.software;
    let allocated = resident_bytes + run.program.memory_bytes();
    Ok(Report {
        adapter: info.name.clone(),
        backend: info.backend.clone(),
        model: model.name.clone(),
        mode: options.mode,
        batch: options.build.batch,
        precision: device.precision().name(),
        images_per_second: options.build.batch as f64 * 1e3 / ms_per_step,
        ms_per_step,
        gflops: graph.nodes.iter().map(|node| flop(&graph, node)).sum::<f64>() / ms_per_step / 1e6,
        peak_memory_bytes: process_peak.filter(|_| !own_memory).unwrap_or(allocated),
        first_step_ms,
        steps: options.steps,
        slot_bytes: plan.slot_bytes() as u64,
        value_bytes: in_slots.map(|(value, _)| value.ty.bytes() as u64).sum(),
        refused: run.program.refused().to_vec(),
        exchange,
        copy_gb_per_s,
        kernels,
    })
}

/// The graph of a step, and what it is given. Parameters and state are on the device.
struct Work {
    graph: Graph,
    outputs: Vec<ValueId>,
    inputs: Vec<(ValueId, Tensor)>,
    resident_bytes: u64,
}

impl Work {
    fn new(device: &mut dyn Device, model: &Model, options: &BenchOptions) -> Result<Work> {
        let BuildOptions { batch, classes, .. } = options.build;
        let (graph, outputs, inputs, parameters, states) = match options.mode {
            Mode::Train => {
                let train = train_graph(model, &options.build, &options.optimizer, 0.0)?;
                let labels = (0..batch).map(|row| (row % classes) as u32).collect();
                let inputs = [
                    (train.pictures, pictures(&train.graph[train.pictures].ty)),
                    (train.labels, Tensor::u32([batch], labels)),
                    (train.counter, Tensor::u32([4], vec![1, 0, 1, 0])),
                    (train.schedule, Tensor::f32([4], options.optimizer.schedule(LEARNING_RATE, 1).to_vec())),
                ];
                (train.graph, vec![train.loss, train.logits], inputs.to_vec(), train.parameters, train.states)
            }
            Mode::Infer => {
                let eval = infer_graph(model, &options.build)?;
                let inputs = [
                    (eval.pictures, pictures(&eval.graph[eval.pictures].ty)),
                    (eval.counter, Tensor::u32([4], vec![0; 4])),
                ];
                (eval.graph, vec![eval.logits], inputs.to_vec(), eval.parameters, Vec::new())
            }
        };
        let mut resident_bytes = 0;
        let mut set = |name: &str, tensor: Tensor| {
            resident_bytes += tensor.bytes().len() as u64;
            device.set(name, &tensor)
        };
        parameters.iter().try_for_each(|parameter| set(&parameter.name, parameter.initial(SEED)?))?;
        states.iter().try_for_each(|(name, ty)| set(name, Tensor::zeros(ty).map_err(Error::device)?))?;
        let inputs = inputs.into_iter().map(|(id, tensor)| Ok((id, tensor.map_err(Error::input)?)));
        Ok(Work { graph, outputs, inputs: inputs.collect::<Result<_>>()?, resident_bytes })
    }
}

/// Random bytes.
fn pictures(ty: &TensorType) -> Result<Tensor, String> {
    let pixels = Philox { seed: SEED, stream: 0, step: 0 };
    let blocks = (0..ty.bytes().div_ceil(16) as u32).flat_map(|block| pixels.block(block));
    let bytes: Vec<u8> = blocks.flat_map(u32::to_le_bytes).take(ty.bytes()).collect();
    Tensor::from_bytes(ty, &bytes)
}

/// A program and its steps.
struct Run {
    program: Box<dyn Program>,
    inputs: Vec<(ValueId, Tensor)>,
    in_flight: VecDeque<Ticket>,
}

impl Run {
    /// Uploads the inputs, submits a step, and waits until no more than `in_flight` steps are not done.
    fn step(&mut self, in_flight: usize) -> Result<()> {
        self.submit(&[], in_flight)
    }

    /// The same without the inputs in `written`, which were.
    fn submit(&mut self, written: &[ValueId], in_flight: usize) -> Result<()> {
        for (input, tensor) in self.inputs.iter().filter(|(input, _)| !written.contains(input)) {
            self.program.write(*input, tensor)?;
        }
        self.in_flight.push_back(self.program.submit()?);
        self.wait(in_flight)
    }

    fn wait(&mut self, in_flight: usize) -> Result<()> {
        while self.in_flight.len() > in_flight {
            if let Some(ticket) = self.in_flight.pop_front() {
                self.program.outputs(ticket, true)?;
            }
        }
        Ok(())
    }
}

/// Work and traffic of each node beside its time.
fn kernels(graph: &Graph, times: &[NodeTime]) -> Vec<KernelTime> {
    let total: f64 = times.iter().map(|time| time.ms).sum();
    let of = |(node, time): (&Node, &NodeTime)| {
        let values = node.inputs.iter().chain(&node.outputs);
        let bytes: usize = values.map(|&value| graph[value].ty.bytes()).sum();
        // Nanoseconds: operations and bytes of each are GFLOP/s and GB/s.
        let ns = time.ms * 1e6;
        let rate = |amount: f64| if ns > 0.0 { amount / ns } else { 0.0 };
        KernelTime {
            name: format!("{} {}", node.layer, node.op.name()),
            calls: time.calls,
            ms: time.ms,
            share: if total > 0.0 { time.ms / total } else { 0.0 },
            gflops: rate(flop(graph, node)),
            gb_per_s: rate(bytes as f64),
        }
    };
    // A view is no kernel.
    let mut kernels: Vec<_> = graph.nodes.iter().zip(times).filter(|(_, time)| time.calls > 0).map(of).collect();
    kernels.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    kernels
}

/// Floating point operations of the multiply-accumulates of a node.
fn flop(graph: &Graph, node: &Node) -> f64 {
    2.0 * graph.macs(node) as f64
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    if times.len().is_multiple_of(2) { (times[middle - 1] + times[middle]) / 2.0 } else { times[middle] }
}

/// The most memory that this process held, bytes; `None` where the system is not asked.
fn process_peak() -> Option<u64> {
    #[cfg(unix)]
    {
        // SAFETY: an all-zero `rusage` is one, and `getrusage` writes one.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (libc::getrusage(libc::RUSAGE_SELF, &mut usage) == 0).then_some(usage)
        };
        let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
        usage.map(|usage| usage.ru_maxrss as u64 * unit)
    }
    #[cfg(not(unix))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuDevice;

    fn options(mode: Mode) -> BenchOptions {
        BenchOptions {
            mode,
            build: BuildOptions::new(3, 2),
            optimizer: OptimizerConfig::adam(0.0),
            warmup: 1,
            steps: 2,
            profile: true,
        }
    }

    #[test]
    fn steps_and_nodes_are_timed() {
        let model = Model::find("four-layer").unwrap();
        for mode in [Mode::Train, Mode::Infer] {
            let report = bench(&mut CpuDevice::new(None).unwrap(), &model, &options(mode)).unwrap();
            assert!(report.ms_per_step > 0.0 && report.first_step_ms > 0.0 && report.gflops > 0.0, "{report:?}");
            assert!((report.images_per_second - 3e3 / report.ms_per_step).abs() < 1e-6, "{report:?}");
            assert!(report.slot_bytes <= report.value_bytes, "{report:?}");
            let share: f64 = report.kernels.iter().map(|kernel| kernel.share).sum();
            assert!((share - 1.0).abs() < 1e-6, "{report:?}");
            let backward = report.kernels.iter().any(|kernel| kernel.name.contains("backward_weight"));
            assert_eq!(backward, mode == Mode::Train, "{report:?}");
        }
    }

    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 9.0]), 3.0);
        assert_eq!(median(&mut [5.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn no_steps_is_an_error() {
        let model = Model::find("four-layer").unwrap();
        let none = BenchOptions { steps: 0, ..options(Mode::Infer) };
        let error = bench(&mut CpuDevice::new(None).unwrap(), &model, &none).unwrap_err();
        assert!(error.to_string().contains("1 or more"), "{error}");
    }
}
