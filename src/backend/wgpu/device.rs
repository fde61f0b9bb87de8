//! An open wgpu device: parameters by name, and the errors that the driver reports on its own time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::adapter::Adapter;
use super::lowering::{ALIGNMENT, Capability, padded};
use super::pipeline::Pipelines;
use super::probe;
use super::program::{WgpuProgram, read_buffer};
use crate::backend::{Device, DeviceInfo, Finding, Program};
use crate::error::{Error, Result};
use crate::graph::{Graph, ValueId};
use crate::tensor::{Tensor, TensorType};

/// How to open a device.
#[derive(Clone, Debug, Default)]
pub struct WgpuOptions {
    /// Bind at most this many bytes at once, as if the device could no more: for tests of large values.
    pub max_binding_bytes: Option<u64>,
    /// Fill fresh memory with NaN, so that a test sees what a kernel forgot to write.
    pub poison: bool,
    /// Use the kernels that are for GPUs also where the processor runs Vulkan: for tests of them on such a machine.
    pub gpu_kernels: bool,
    /// Ask for WebGPU's default limits and no feature, as if the device had no more: for tests that the kernels need no more.
    pub default_limits: bool,
    /// Let shaders check indices, divisors and loops when they run, and clear workgroup memory: for tests that they need none of it.
    pub checked: bool,
}

/// A device opened through wgpu.
#[derive(Debug)]
pub struct WgpuDevice {
    info: DeviceInfo,
    shared: Arc<Shared>,
    variables: HashMap<String, Variable>,
}

/// A parameter or state.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    pub ty: TensorType,
    pub buffer: wgpu::Buffer,
}

/// What the device and its programs share.
#[derive(Debug)]
pub(super) struct Shared {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub capability: Capability,
    pub max_buffer: u64,
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
    pub fn open(adapter: &Adapter, options: &WgpuOptions) -> Result<Self> {
        let supported = adapter.wgpu.limits();
        let (limits, wanted) = match options.default_limits {
            true => (wgpu::Limits::default(), wgpu::Features::empty()),
            false => {
                let limits = wgpu::Limits {
                    max_buffer_size: supported.max_buffer_size,
                    max_storage_buffer_binding_size: supported.max_storage_buffer_binding_size,
                    ..wgpu::Limits::default().or_worse_values_from(&supported)
                };
                (limits, wgpu::Features::SUBGROUP)
            }
        };
        let max_buffer = limits.max_buffer_size;
        let max_binding = limits.max_storage_buffer_binding_size.min(max_buffer);
        let features = adapter.wgpu.features() & wanted;
        let request = adapter.wgpu.request_device(&wgpu::DeviceDescriptor {
            label: Some("convoy"),
            required_features: features,
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        });
        let (device, queue) = pollster::block_on(request)
            .map_err(|e| Error::device(format!("{} cannot be opened: {e}", adapter.info.name)))?;
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
        let fixed = wgpu_info.subgroup_min_size == wgpu_info.subgroup_max_size && !features.is_empty();
        let max_window = options.max_binding_bytes.unwrap_or(max_binding).clamp(ALIGNMENT, max_binding);
        let shared = Shared {
            device,
            queue,
            capability: Capability {
                max_window: max_window / ALIGNMENT * ALIGNMENT,
                software: adapter.info.software && !options.gpu_kernels,
                subgroup: fixed.then_some(wgpu_info.subgroup_min_size),
            },
            max_buffer,
            poison: options.poison,
            health,
            pipelines: Mutex::new(Pipelines::new(options.checked)),
        };
        Ok(WgpuDevice { info: adapter.info.clone(), shared: Arc::new(shared), variables: HashMap::new() })
    }
}

impl Device for WgpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn probe(&mut self) -> Result<Vec<Finding>> {
        probe::findings(&self.shared)
    }

    fn set(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let ty = tensor.ty();
        let buffer = match self.variables.get(name) {
            Some(variable) if variable.ty == ty => variable.buffer.clone(),
            Some(variable) => {
                return Err(Error::shape(name, format!("has shape {}, got {}", variable.ty.shape, ty.shape)));
            }
            None => self.shared.buffer(name, ty.bytes() as u64)?,
        };
        self.shared.write(&buffer, tensor.bytes());
        self.shared.check()?;
        self.variables.insert(name.into(), Variable { ty, buffer });
        Ok(())
    }

    fn get(&mut self, name: &str) -> Result<Tensor> {
        let variable = self.variables.get(name);
        let Variable { ty, buffer } =
            variable.ok_or_else(|| Error::input(format!("the device holds no parameter \"{name}\"")))?;
        read_buffer(&self.shared, buffer, ty)
    }

    fn compile(&mut self, graph: &Graph, outputs: &[ValueId]) -> Result<Box<dyn Program>> {
        Ok(Box::new(WgpuProgram::compile(self.shared.clone(), &self.variables, graph, outputs)?))
    }
}

impl Shared {
    /// A storage buffer for `bytes`, rounded up to whole vec4s.
    ///
    /// # Errors
    /// When it is larger than the device can have, or memory runs out.
    pub fn buffer(&self, name: &str, bytes: u64) -> Result<wgpu::Buffer> {
        let size = padded(bytes);
        if size > self.max_buffer {
            return Err(Error::device(format!(
                "{name} needs {size} bytes, but this device's largest buffer has {}; lower --batch-size",
                self.max_buffer
            )));
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let descriptor = wgpu::BufferDescriptor { label: Some(name), size, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        self.check()?;
        Ok(buffer)
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
