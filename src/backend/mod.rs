//! Backends: what a device must do to run a graph. [`wgpu`] is what the project is about, [`cpu`] is for machines without a GPU.

pub mod cpu;
#[cfg(any(feature = "cuda", test))]
pub mod cuda;
mod kept;
mod options;
pub mod select;
pub mod several;
mod variables;
pub mod wgpu;

pub use options::DeviceOptions;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::graph::partition::Report;
use crate::graph::{Graph, Node, ValueId};
use crate::tensor::Tensor;

/// Kind of hardware, in the order in which `auto` prefers them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceType {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the machine's memory.
    Integrated,
    /// A GPU of a virtual machine.
    Virtual,
    /// A processor: the CPU backend, or Vulkan in software (llvmpipe).
    Cpu,
    /// Something that does not say.
    Other,
}

/// What is known of a device: one entry of `convoy adapters --json`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DeviceInfo {
    /// Place in the list, for `--adapter INDEX`.
    pub index: usize,
    /// Name as the driver gives it.
    pub name: String,
    /// `vulkan`, `metal`, `dx12`, `gl` or `cpu`.
    pub backend: String,
    /// Kind of hardware.
    #[serde(rename = "type")]
    pub device_type: DeviceType,
    /// Driver name and version.
    pub driver: String,
    /// Whether it is a GPU interface run by the processor.
    pub software: bool,
    /// What `--adapter` accepts for it.
    pub selectors: Vec<String>,
    /// Largest range that one binding may cover, bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer, bytes.
    pub max_buffer_bytes: u64,
    /// Memory of the device, bytes, where it is known.
    pub memory_bytes: Option<u64>,
    /// 16-bit floats in shaders.
    pub f16: bool,
    /// Subgroup operations in shaders.
    pub subgroups: bool,
    /// Device timestamps.
    pub timestamps: bool,
    /// Subgroups that multiply matrices at once, of f32 or of f16, see [`wgpu::Matrices`].
    #[serde(skip)]
    pub matrices: bool,
}

/// What a check of a device itself found.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct Finding {
    /// What was checked.
    pub probe: &'static str,
    /// Whether the device does as it should.
    pub right: bool,
    /// Whether convoy's kernels keep out of the way of what is not right.
    pub avoided: bool,
    /// What it does, in words.
    pub found: String,
}

/// The numbers that products (convolutions, fully connected layers) may multiply. All sums, and all that is stored, parameters and
/// gradients too, are f32.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// TensorFloat-32: 32-bit floats rounded to 10 bits of fraction. By NVIDIA's libraries only.
    Tf32,
    /// bfloat16, with 7 bits of fraction and the range of f32, or [`Precision::Tf32`] where that is faster.
    Bf16,
    /// 16-bit floats where they are faster: what lies beyond ±65,504 becomes that. Gradients are often smaller than the smallest
    /// of them, so they are multiplied by `loss_scale`, a power of two, and the products divided by it.
    F16 {
        /// See [`Precision::f16`].
        loss_scale: f32,
    },
}

impl Precision {
    /// 16-bit floats for steps of `batch` rows whose loss is the mean over the rows: the gradient of a logit is at most
    /// 1 / batch, which becomes 1,024 to 2,048, so that there is room for larger ones, and for those down to 1e-11 / batch.
    pub fn f16(batch: usize) -> Precision {
        Precision::F16 { loss_scale: 1024.0 * batch.next_power_of_two() as f32 }
    }

    /// As `--precision` has it.
    pub fn name(&self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::F16 { .. } => "f16",
        }
    }

    /// What cotangents are multiplied by in products.
    pub fn loss_scale(&self) -> f32 {
        match self {
            Precision::F32 | Precision::Tf32 | Precision::Bf16 => 1.0,
            Precision::F16 { loss_scale } => *loss_scale,
        }
    }
}

/// Kernels that were found to be the fastest: names by the signature of a node, see [`Graph::signature`].
pub type Choices = BTreeMap<String, String>;

/// An open device: holds parameters and state by name, and compiles graphs.
pub trait Device {
    /// What it is.
    fn info(&self) -> &DeviceInfo;

    /// The devices that it is made of: itself, or several that run each graph together.
    fn parts(&self) -> Vec<&DeviceInfo> {
        vec![self.info()]
    }

    /// What several devices send each other in a step of a graph, and the memory that each needs; `None` for one device.
    ///
    /// # Errors
    /// When the graph cannot be cut over so many.
    fn exchange(&self, _graph: &Graph, _outputs: &[ValueId]) -> Result<Option<Report>> {
        Ok(None)
    }

    /// Whether its programs hand on what they send to others of this backend without the host ([`Program::hand_over`]).
    fn hands_over(&self) -> bool {
        false
    }

    /// What its memory gives at best, GB/s: bytes that a large copy reads and writes; `None` where that is not known.
    ///
    /// # Errors
    /// The device's.
    fn copy_gb_per_s(&mut self) -> Result<Option<f64>> {
        Ok(None)
    }

    /// What it was opened to multiply.
    fn precision(&self) -> Precision {
        Precision::F32
    }

    /// Checks the device itself: loops, workgroup memory, barriers, arithmetic. Nothing for a backend that has none of its own.
    fn probe(&mut self) -> Result<Vec<Finding>>;

    /// Creates, or overwrites when it has the same type, the parameter or state `name`.
    fn set(&mut self, name: &str, tensor: &Tensor) -> Result<()>;

    /// Reads a parameter or state back; waits for the device.
    fn get(&mut self, name: &str) -> Result<Tensor>;

    /// Gives up the memory of a parameter or state, where the device can; no program that uses it may run any more.
    fn remove(&mut self, _name: &str) {}

    /// Names of the kernels that can run a node, the default first; none where there is no choice.
    fn candidates(&self, _graph: &Graph, _node: &Node) -> Vec<String> {
        Vec::new()
    }

    /// Which of a node's candidates is right beyond doubt: that the others are held against.
    fn trusted(&self, _candidates: &[String]) -> usize {
        0
    }

    /// From now on graphs are compiled with these kernels, and with the defaults for other nodes. Unknown names do not count.
    fn choose(&mut self, _choices: Choices) {}

    /// Compiles, all at once, the kernels of its own that a graph would run, so that [`Device::compile`] finds them ready; what fails there
    /// fails later too. Nothing where nothing is gained.
    fn prepare(&mut self, _graph: &Graph) {}

    /// Compiles a graph whose parameters and state were [`Device::set`]. `outputs` are read back after each step.
    fn compile(&mut self, graph: &Graph, outputs: &[ValueId]) -> Result<Box<dyn Program>>;
}

/// Bytes that [`Device::copy_gb_per_s`] copies at once: more than any cache holds.
const COPIED: u64 = 256 << 20;

/// Copies that a GPU is given together: one alone may take no longer than to ask for it.
const COPIES: u64 = 8;

/// GB/s of the fastest of a few runs of `copy`, after one that is not timed: each copies so many bytes, and returns when they are there.
fn copy_rate(bytes: u64, mut copy: impl FnMut() -> Result<()>) -> Result<f64> {
    copy()?;
    let mut fastest = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        copy()?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * bytes as f64 / fastest / 1e9)
}

/// A submitted step, to be asked for its outputs later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(pub u64);

/// What a stage sends, still on the device that computes it, for a program of a device of the same backend.
pub type Parcel = Arc<dyn Any + Send + Sync>;

/// A compiled graph: one step at a time, each in one submit. Of one device's part of a graph, each [`crate::graph::Stage`] is a submit: `submit` runs
/// the next one, and its outputs are what it sends, then, of the last one, the graph's.
pub trait Program: Send {
    /// Sets an input for the next step, or what a stage receives before it. The type must be the value's.
    fn write(&mut self, input: ValueId, tensor: &Tensor) -> Result<()>;

    /// Encodes and submits one step; does not wait for it. Outputs are kept for the returned ticket until they are taken.
    /// Steps that are in flight are bounded by the caller, who takes old tickets with [`Program::outputs`].
    fn submit(&mut self) -> Result<Ticket>;

    /// [`Program::submit`], but what the stage sends is returned at once, to be [`Program::receive`]d by other devices' programs, which wait on their
    /// devices until it is there, and [`Program::outputs`] has only what remains.
    ///
    /// # Errors
    /// Where its device does not [`Device::hands_over`].
    fn hand_over(&mut self) -> Result<(Ticket, Vec<Parcel>)> {
        Err(Error::device("this device sends by way of the host"))
    }

    /// [`Program::write`] of what another device's program handed over.
    ///
    /// # Errors
    /// Where its device does not [`Device::hands_over`].
    fn receive(&mut self, _value: ValueId, _parcel: &Parcel) -> Result<()> {
        Err(Error::device("this device receives by way of the host"))
    }

    /// The outputs of a step, in the order given to [`Device::compile`]: the only place that waits for the device.
    /// With `wait` false, `None` when the step is not done yet.
    fn outputs(&mut self, ticket: Ticket, wait: bool) -> Result<Option<Vec<Tensor>>>;

    /// What libraries of the device's vendor refused to compute though they had said that they would, in words: the device's own kernels do it.
    fn refused(&self) -> &[String] {
        &[]
    }

    /// Device memory of the program's own (inputs and slots), bytes.
    fn memory_bytes(&self) -> u64;

    /// Runs a step and times each of the graph's nodes.
    ///
    /// # Errors
    /// The step's.
    fn profile(&mut self) -> Result<Vec<NodeTime>>;
}

/// What a node of a graph takes in a step.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct NodeTime {
    /// Kernels that it runs; 0 for a view.
    pub calls: usize,
    /// Milliseconds of all of them.
    pub ms: f64,
}
