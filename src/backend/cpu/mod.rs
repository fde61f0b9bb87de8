//! The CPU backend: for machines without a GPU. Loops that the compiler vectorises, on a pool of threads: one kernel of matrix
//! products under convolutions and linear layers, one pass over memory for the rest. Every sum has an order fixed by the shapes alone, never by the number of
//! threads or their timing, so a run repeats to the bit.
//!
//! The way of a step: `program` holds the buffers that the plan asked for and runs the nodes in order; each op
//! implements `CpuOp` in the file of its stem, on slices of those buffers.

mod matmul;
mod memory;
mod padded;
mod parallel;
mod program;
mod simd;
mod transpose;

mod activation;
mod adam;
mod augment;
mod avg_pool2d;
mod batch_norm;
mod bias;
mod biased;
mod concat;
mod conv2d;
mod cross_entropy;
mod dropout;
mod elementwise;
mod linear;
mod linear_update;
mod lrn;
mod max_pool2d;
mod mix;
mod multi_update;
mod reduce;
mod reshape;
mod running_average;
mod sgd;
mod softmax;
mod windows;
mod winograd;

use std::sync::{Arc, Mutex};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{COPIED, Device, DeviceInfo, DeviceType, Finding, Program, copy_rate};
use crate::error::{Error, Result};
use crate::graph::{Graph, ValueId};
use crate::tensor::{Tensor, TensorType, zeros};
use memory::{Io, Store};

/// What an op must do to run on the CPU backend. Implemented for every op of [`crate::ops`]'s list.
pub(crate) trait CpuOp {
    /// f32 elements of scratch memory that [`CpuOp::run`] needs on a pool of `threads`. Allocated once per program.
    fn scratch(&self, _inputs: &[&TensorType], _outputs: &[&TensorType], _threads: usize) -> usize {
        0
    }

    /// f32 elements of what is made of the weight, input 1, alone, and can be kept from step to step where it stays the same: see
    /// [`Io::kept`].
    fn kept(&self, _inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        0
    }

    /// Computes the outputs from the inputs, on the current rayon pool. Outputs hold old data and are written in full.
    fn run(&self, io: Io);
}

/// The processor as a device. Steps run synchronously, inside [`Program::submit`].
pub struct CpuDevice {
    info: DeviceInfo,
    pool: Arc<ThreadPool>,
    store: Arc<Mutex<Store>>,
}

impl CpuDevice {
    /// A device with a pool of its own: `threads` of them, by default one per processor that this process may use.
    ///
    /// # Errors
    /// [`Error::Device`] when the threads cannot be started.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        let threads =
            threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1).max(1);
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("convoy-cpu-{i}"))
            .build()
            .map_err(|e| Error::device(format!("cannot start {threads} threads for the CPU backend: {e}")))?;
        Ok(CpuDevice { info: info(), pool: Arc::new(pool), store: Arc::default() })
    }
}

impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn probe(&mut self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    fn copy_gb_per_s(&mut self) -> Result<Option<f64>> {
        let bytes = || zeros::<u8>(COPIED as usize).map_err(Error::device);
        let (from, mut to) = (bytes()?, bytes()?);
        let part = to.len().div_ceil(self.pool.current_num_threads());
        let copy = || {
            let parts = to.par_chunks_mut(part).zip(from.par_chunks(part));
            self.pool.install(|| parts.for_each(|(to, from)| to.copy_from_slice(from)));
            Ok(())
        };
        copy_rate(COPIED, copy).map(Some)
    }

    fn set(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        memory::lock(&self.store).set(name, tensor)
    }

    fn get(&mut self, name: &str) -> Result<Tensor> {
        memory::lock(&self.store).get(name)
    }

    fn compile(&mut self, graph: &Graph, outputs: &[ValueId]) -> Result<Box<dyn Program>> {
        let program = program::CpuProgram::new(graph, outputs, self.store.clone(), self.pool.clone())?;
        Ok(Box::new(program))
    }
}

/// What is known of the processor, without starting anything.
pub fn info() -> DeviceInfo {
    let memory_bytes = system_value("/proc/meminfo", "MemTotal")
        .and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok())
        .map(|kib| kib * 1024);
    DeviceInfo {
        index: 0,
        name: system_value("/proc/cpuinfo", "model name").unwrap_or_else(|| "CPU".into()),
        backend: "cpu".into(),
        device_type: DeviceType::Cpu,
        driver: format!("convoy {}", env!("CARGO_PKG_VERSION")),
        software: false,
        selectors: vec!["cpu".into()],
        max_binding_bytes: memory_bytes.unwrap_or(u64::MAX),
        max_buffer_bytes: memory_bytes.unwrap_or(u64::MAX),
        memory_bytes,
        f16: false,
        subgroups: false,
        timestamps: false,
        matrices: false,
    }
}

/// Bytes of memory that this process may still use: what the machine has left, or the container; `None` where that is not known.
fn available_memory() -> Option<u64> {
    let kib: u64 = system_value("/proc/meminfo", "MemAvailable")?.strip_suffix(" kB")?.parse().ok()?;
    let limit = |file: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/memory.{file}")).ok()?.trim().parse().ok();
    let container = |max: u64| max.saturating_sub(limit("current").unwrap_or(0));
    Some(limit("max").map_or(u64::MAX, container).min(kib * 1024))
}

/// The value of the first `key : value` line of one of Linux's system files; `None` elsewhere.
fn system_value(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
