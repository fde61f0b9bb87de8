//! An open wgpu device: parameters by name, and the errors that the driver reports on its own time.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::adapter::Adapter;
use super::lower::{candidates, of_case};
use super::lowering::{ALIGNMENT, Capability, MAX_GROUPS, STORAGE_BUFFERS, Window, padded};
use super::matrices::Matrices;
use super::pipeline::Pipelines;
use super::pipeline_cache::PipelineCache;
use super::probe;
use super::program::{WgpuProgram, read_buffer};
use crate::backend::select::only_by_cuda;
use crate::backend::variables::Variables;
use crate::backend::{
    COPIED, COPIES, Choices, Device, DeviceInfo, DeviceOptions, Finding, Precision, Program, copy_rate,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, ValueId};
use crate::ops::case::Case;
use crate::tensor::Tensor;

/// Bytes past the end of a poisoned buffer: what a workgroup of 256 writes, a vec4 each. The end is that of the last whole vec4: many
/// kernels write nothing smaller, so that up to 3 elements past a value's own end are theirs to write, and nobody's to read.
pub(super) const GUARD: u64 = 4096;

/// What the guard of a poisoned buffer holds: large numbers, so that one that is read spoils a sum, and others for each buffer, so
/// that one which is copied shows. NaN would not do: arithmetic keeps its bits.
pub(super) fn guard(buffer: &wgpu::Buffer) -> Vec<u32> {
    let mut hasher = DefaultHasher::new();
    buffer.hash(&mut hasher);
    let words = GUARD as u32 / 4;
    (0..words).map(|i| 0x5f00_0000 | (hasher.finish() as u32).wrapping_add(i) & 0x007f_ffff).collect()
}

/// A device opened through wgpu.
#[derive(Debug)]
pub struct WgpuDevice {
    info: DeviceInfo,
    shared: Arc<Shared>,
    variables: Variables<wgpu::Buffer>,
    choices: Arc<Choices>,
}

/// What the device and its programs share.
#[derive(Debug)]
pub(super) struct Shared {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub capability: Capability,
    pub max_buffer: u64,
    /// Of the device, whatever the options say.
    max_binding: u64,
    pub poison: bool,
    health: Arc<Health>,
    pipelines: Mutex<Pipelines>,
}

/// Errors that wgpu reports by callback.
#[derive(Debug, Default)]
struct Health {
    /// The device is gone for good.
    lost: Mutex<Option<String>>,
    /// The first error since the last look.
    error: Mutex<Option<String>>,
}

/// A lock's content, also after a panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WgpuDevice {
    /// Opens an adapter.
    ///
    /// # Errors
    /// [`Error::Device`] when the driver refuses.
    pub fn open(adapter: &Adapter, options: &DeviceOptions) -> Result<Self> {
        let supported = adapter.wgpu.limits();
        let f16 = match options.precision {
            Precision::F32 => wgpu::Features::empty(),
            Precision::Tf32 | Precision::Bf16 => return Err(only_by_cuda(options.precision)),
            Precision::F16 { .. } if adapter.info.f16 => wgpu::Features::SHADER_F16,
            Precision::F16 { .. } => {
                return Err(Error::device(format!(
                    "{} has no 16-bit floats in shaders; leave --precision f16 out, or choose another --adapter",
                    adapter.info.name
                )));
            }
        };
        let (limits, wanted) = match options.default_limits {
            true => (wgpu::Limits::default(), f16),
            false => {
                let limits = wgpu::Limits {
                    max_buffer_size: supported.max_buffer_size,
                    max_storage_buffers_per_shader_stage: supported
                        .max_storage_buffers_per_shader_stage
                        .min(STORAGE_BUFFERS as u32),
                    max_storage_buffer_binding_size: supported.max_storage_buffer_binding_size,
                    ..wgpu::Limits::default().or_worse_values_from(&supported)
                };
                let kept =
                    options.pipelines.as_ref().map_or(wgpu::Features::empty(), |_| wgpu::Features::PIPELINE_CACHE);
                (limits, f16 | kept | wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY)
            }
        };
        let max_buffer = limits.max_buffer_size;
        let storage_buffers = limits.max_storage_buffers_per_shader_stage as usize;
        let max_binding = limits.max_storage_buffer_binding_size.min(max_buffer);
        let features = adapter.wgpu.features() & wanted;
        let request = |matrices: bool| {
            let mut descriptor = wgpu::DeviceDescriptor {
                label: Some("convoy"),
                required_features: features,
                required_limits: limits.clone(),
                memory_hints: wgpu::MemoryHints::Performance,
                ..Default::default()
            };
            if matrices {
                descriptor.required_features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
                // SAFETY: what wgpu has not checked enough are shaders of matrices. They are our own, and run only where the tuner
                // has held what they compute against the default's.
                descriptor.experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
            }
            pollster::block_on(adapter.wgpu.request_device(&descriptor))
        };
        let own = if options.default_limits { None } else { Matrices::of(&adapter.wgpu, options.precision) };
        let (matrices, opened) = match request(own.is_some()) {
            Err(_) if own.is_some() => (None, request(false)),
            opened => (own, opened),
        };
        let (device, queue) =
            opened.map_err(|e| Error::device(format!("{} cannot be opened: {e}", adapter.info.name)))?;
        let health = Arc::new(Health::default());
        let watched = health.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            lock(&watched.error).get_or_insert_with(|| describe(error));
        }));
        let watched = health.clone();
        device.set_device_lost_callback(move |reason, message| {
            *lock(&watched.lost) = Some(format!("{reason:?}: {message}"));
        });
        let wgpu_info = adapter.wgpu.get_info();
        let fixed =
            wgpu_info.subgroup_min_size == wgpu_info.subgroup_max_size && features.contains(wgpu::Features::SUBGROUP);
        let kept = options.pipelines.as_ref().and_then(|folder| PipelineCache::open(&device, &wgpu_info, folder));
        let max_window = options.max_binding_bytes.unwrap_or(max_binding).clamp(ALIGNMENT, max_binding);
        let mut shared = Shared {
            device,
            queue,
            capability: Capability {
                max_window: max_window / ALIGNMENT * ALIGNMENT,
                grid_side: options.grid_side.unwrap_or(MAX_GROUPS).clamp(1, MAX_GROUPS),
                storage_buffers,
                software: adapter.info.software && !options.gpu_kernels,
                subgroup: fixed.then_some(wgpu_info.subgroup_min_size),
                matrices: options.matrices.or(matrices),
                precision: options.precision,
                candidate: options.candidate,
            },
            max_buffer,
            max_binding,
            poison: options.poison,
            health,
            pipelines: Mutex::new(Pipelines::new(options.checked, options.replace.clone(), kept)),
        };
        // The order of a subgroup's invocations is asked of the device itself where kernels would make use of it.
        if shared.capability.software && fixed && !probe::subgroups(&shared)?.1 {
            shared.capability.subgroup = None;
        }
        let info = adapter.info.clone();
        Ok(WgpuDevice { info, shared: Arc::new(shared), variables: Variables::default(), choices: Arc::default() })
    }
}

impl WgpuDevice {
    /// The texts of the shaders that a case runs here; none where the device is too small for it.
    pub fn sources(&self, case: &Case) -> HashSet<Cow<'static, str>> {
        let dispatches = of_case(case, self.shared.capability).unwrap_or_default();
        dispatches.into_iter().map(|dispatch| dispatch.kernel.source.clone()).collect()
    }
}

impl Device for WgpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn precision(&self) -> Precision {
        self.shared.capability.precision
    }

    fn probe(&mut self) -> Result<Vec<Finding>> {
        probe::findings(&self.shared)
    }

    fn copy_gb_per_s(&mut self) -> Result<Option<f64>> {
        let shared = &self.shared;
        let bytes = COPIED.min(shared.max_buffer / 4 / ALIGNMENT * ALIGNMENT);
        let [from, to] = [shared.buffer("a copy's source", bytes)?, shared.buffer("a copy", bytes)?];
        let copy = || {
            let mut encoder = shared.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            (0..COPIES).for_each(|_| encoder.copy_buffer_to_buffer(&from, 0, &to, 0, bytes));
            shared.queue.submit([encoder.finish()]);
            shared.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| Error::device(e.to_string()))?;
            shared.check()
        };
        copy_rate(COPIES * bytes, copy).map(Some)
    }

    fn set(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let shared = &self.shared;
        let new = || shared.buffer(name, tensor.bytes().len() as u64);
        let buffer = self.variables.place(name, tensor.ty(), new)?;
        shared.write(&buffer, tensor.bytes());
        shared.check()
    }

    fn get(&mut self, name: &str) -> Result<Tensor> {
        let (ty, buffer) = self.variables.get(name)?;
        read_buffer(&self.shared, buffer, ty)
    }

    fn remove(&mut self, name: &str) {
        self.variables.remove(name);
    }

    fn candidates(&self, graph: &Graph, node: &Node) -> Vec<String> {
        candidates(&node.op, &graph.types(node), self.shared.capability).unwrap_or_default()
    }

    fn choose(&mut self, choices: Choices) {
        self.choices = Arc::new(choices);
    }

    fn compile(&mut self, graph: &Graph, outputs: &[ValueId]) -> Result<Box<dyn Program>> {
        Ok(Box::new(WgpuProgram::compile(self.shared.clone(), &self.variables, &self.choices, graph, outputs)?))
    }
}

impl Shared {
    /// A storage buffer for `bytes`, rounded up to whole vec4s.
    ///
    /// # Errors
    /// When it is larger than the device can have, or memory runs out.
    pub fn buffer(&self, name: &str, bytes: u64) -> Result<wgpu::Buffer> {
        let size = padded(bytes) + if self.poison { GUARD } else { 0 };
        if size > self.max_buffer {
            return Err(Error::device(format!(
                "{name} needs {size} bytes, but this device's largest buffer has {}; lower --batch-size",
                self.max_buffer
            )));
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let descriptor = wgpu::BufferDescriptor { label: Some(name), size, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        if self.poison {
            self.write(&buffer, &vec![0xff; padded(bytes) as usize]);
            self.queue.write_buffer(&buffer, padded(bytes), bytemuck::cast_slice(&guard(&buffer)));
        }
        self.check()?;
        Ok(buffer)
    }

    /// Bytes that a kernel can reach of a window: it, and a poisoned one's guard.
    pub fn reach(&self, window: &Window) -> u64 {
        if self.poison { (window.size + GUARD).min(self.max_binding) } else { window.size }
    }

    /// Writes `bytes` to the start of a buffer, before whatever is submitted next.
    pub fn write(&self, buffer: &wgpu::Buffer, bytes: &[u8]) {
        // A write is a multiple of 4 bytes; only u8 tensors can end between words, and buffers are padded.
        let (words, rest) = bytes.split_at(bytes.len() / 4 * 4);
        self.queue.write_buffer(buffer, 0, words);
        if !rest.is_empty() {
            let mut word = [0; 4];
            word[..rest.len()].copy_from_slice(rest);
            self.queue.write_buffer(buffer, words.len() as u64, &word);
        }
    }

    /// The pipelines made so far.
    pub fn pipelines(&self) -> MutexGuard<'_, Pipelines> {
        lock(&self.pipelines)
    }

    /// The error that the driver reported since the last check, if any. A lost device stays lost.
    pub fn check(&self) -> Result<()> {
        if let Some(message) = &*lock(&self.health.lost) {
            return Err(Error::device(format!(
                "the device was lost ({message}); run again, or choose another --adapter"
            )));
        }
        match lock(&self.health.error).take() {
            Some(message) => Err(Error::device(message)),
            None => Ok(()),
        }
    }
}

/// A message for an error of wgpu's: its innermost cause on one line.
fn describe(error: wgpu::Error) -> String {
    match error {
        wgpu::Error::OutOfMemory { .. } => "the device is out of memory; lower --batch-size".into(),
        other => {
            let mut cause: &dyn std::error::Error = &other;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            format!("the device reports: {}", cause.to_string().replace('\n', " "))
        }
    }
}
