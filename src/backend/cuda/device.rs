//! An open GPU: parameters by name.

use std::collections::BTreeSet;
use std::ffi::c_int;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::adapter::{Adapter, MAX_WINDOW};
use super::compiler::Compiler;
use super::driver::{Context, Memory, Stream};
use super::kernels::Kernels;
use super::libraries::{Libraries, is_library};
use super::program::CudaProgram;
use crate::backend::variables::Variables;
use crate::backend::wgpu::lower::{candidates, lower};
use crate::backend::wgpu::lowering::{ALIGNMENT, Capability, MAX_GROUPS, STORAGE_BUFFERS, padded};
use crate::backend::{
    COPIED, COPIES, Choices, Device, DeviceInfo, DeviceOptions, Finding, Precision, Program, copy_rate,
};
use crate::error::{Error, Result};
use crate::graph::plan::plan;
use crate::graph::{Graph, Node, ValueId};
use crate::tensor::Tensor;

/// A GPU of NVIDIA's, through its own driver.
pub struct CudaDevice {
    info: DeviceInfo,
    shared: Arc<Shared>,
    variables: Variables<Arc<Memory>>,
    choices: Arc<Choices>,
    /// Why there are no libraries, where there should be.
    lacks: Option<String>,
}

/// What the device and its programs share.
pub(super) struct Shared {
    pub context: Arc<Context>,
    /// Where both are installed. Before the stream, which they refer to.
    pub libraries: Option<Libraries>,
    /// Where steps run, and all that must not overtake them.
    pub stream: Stream,
    /// Where inputs come in meanwhile.
    pub uploads: Stream,
    /// Where what other GPUs have comes in: inputs do not wait for that.
    pub fetches: Stream,
    pub capability: Capability,
    pub max_buffer: u64,
    pub poison: bool,
    kernels: Mutex<Kernels>,
}

/// The compute capability from which on tensor cores take TensorFloat-32 and bfloat16.
const TENSOR_CORES: [c_int; 2] = [8, 0];

/// Bytes past the end of a poisoned range of memory, which no kernel may write.
pub(super) const GUARD: u64 = 4096;

/// What each byte of such a guard is: together large numbers, so that one that is read spoils a sum.
pub(super) const GUARD_BYTE: u8 = 0x5e;

impl Shared {
    /// Zeros, or for tests what is no number, and behind it a guard.
    ///
    /// # Errors
    /// When the device has no more.
    pub fn memory(&self, bytes: u64) -> Result<Memory> {
        let memory = Memory::new(&self.context, bytes + if self.poison { GUARD } else { 0 })?;
        self.stream.fill(memory.address, if self.poison { 0xff } else { 0 }, bytes as usize)?;
        if self.poison {
            self.stream.fill(memory.address + bytes, GUARD_BYTE, GUARD as usize)?;
        }
        Ok(memory)
    }

    /// The kernels made so far.
    pub fn kernels(&self) -> MutexGuard<'_, Kernels> {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CudaDevice {
    /// Opens a GPU.
    ///
    /// # Errors
    /// Where NVIDIA's compiler of kernels is not installed, or the driver refuses.
    pub fn open(adapter: &Adapter, options: &DeviceOptions) -> Result<CudaDevice> {
        let capability = adapter.gpu.compute_capability()?;
        if matches!(options.precision, Precision::Tf32 | Precision::Bf16) && capability < TENSOR_CORES {
            let ([major, minor], name) = (capability, options.precision.name());
            return Err(Error::input(format!(
                "--precision {name} needs a GPU of compute capability 8.0 or newer, {} has {major}.{minor}; leave it out",
                adapter.info.name
            )));
        }
        let compiler = Compiler::new(capability, options.pipelines.as_deref())?;
        let context = Context::open(adapter.gpu)?;
        let kernels = Kernels::new(compiler);
        kernels.check(&context)?;
        let own_only =
            options.own_kernels || options.candidate > 0 || matches!(options.precision, Precision::F16 { .. });
        let mut lacks = None;
        let libraries = match own_only {
            true => None,
            false => match (
                Libraries::open(&context, &kernels, options.precision, adapter.info.max_buffer_bytes),
                options.precision,
            ) {
                (Ok(libraries), _) => Some(libraries),
                (Err(error), Precision::Tf32 | Precision::Bf16) => {
                    return Err(Error::device(format!(
                        "--precision {} needs NVIDIA's libraries: {error}",
                        options.precision.name()
                    )));
                }
                (Err(error), _) => {
                    lacks = Some(error.to_string());
                    None
                }
            },
        };
        let max_window = options.max_binding_bytes.unwrap_or(MAX_WINDOW).clamp(ALIGNMENT, MAX_WINDOW);
        let shared = Shared {
            stream: Stream::new(&context)?,
            uploads: Stream::new(&context)?,
            fetches: Stream::new(&context)?,
            context,
            capability: Capability {
                grid_side: options.grid_side.unwrap_or(MAX_GROUPS).clamp(1, MAX_GROUPS),
                storage_buffers: STORAGE_BUFFERS,
                precision: options.precision,
                candidate: options.candidate,
                ..Capability::gpu(max_window / ALIGNMENT * ALIGNMENT)
            },
            max_buffer: adapter.info.max_buffer_bytes,
            poison: options.poison,
            libraries,
            kernels: Mutex::new(kernels),
        };
        let mut info = adapter.info.clone();
        info.driver += &match &shared.libraries {
            Some(libraries) => format!(", {}", libraries.versions()),
            None => ", without cuBLASLt and cuDNN".into(),
        };
        Ok(CudaDevice {
            info,
            shared: Arc::new(shared),
            variables: Variables::default(),
            choices: Arc::default(),
            lacks,
        })
    }
}

impl CudaDevice {
    /// Why it runs without NVIDIA's libraries, where it does for want of them.
    pub fn lacks(&self) -> Option<&str> {
        self.lacks.as_deref()
    }
}

#[cfg(test)]
impl CudaDevice {
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Device for CudaDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn hands_over(&self) -> bool {
        true
    }

    fn precision(&self) -> Precision {
        self.shared.capability.precision
    }

    fn probe(&mut self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    fn copy_gb_per_s(&mut self) -> Result<Option<f64>> {
        let Shared { context, stream, .. } = &*self.shared;
        let [from, to] = [Memory::new(context, COPIED)?, Memory::new(context, COPIED)?];
        let copy = || {
            (0..COPIES).try_for_each(|_| stream.copy(to.address, from.address, COPIED as usize))?;
            stream.wait()
        };
        copy_rate(COPIES * COPIED, copy).map(Some)
    }

    fn set(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let (ty, shared) = (tensor.ty(), &self.shared);
        let new = || Ok(Arc::new(shared.memory(padded(tensor.bytes().len() as u64))?));
        let memory = self.variables.place(name, ty, new)?;
        shared.context.bind()?;
        shared.stream.upload(memory.address, tensor.bytes())?;
        shared.stream.wait()
    }

    fn get(&mut self, name: &str) -> Result<Tensor> {
        let (ty, memory) = self.variables.get(name)?;
        let mut bytes = vec![0; ty.bytes()];
        self.shared.context.bind()?;
        self.shared.stream.download(&mut bytes, memory.address)?;
        self.shared.stream.wait()?;
        Tensor::from_bytes(ty, &bytes).map_err(Error::device)
    }

    fn remove(&mut self, name: &str) {
        self.variables.remove(name);
    }

    fn candidates(&self, graph: &Graph, node: &Node) -> Vec<String> {
        let types = graph.types(node);
        let own = candidates(&node.op, &types, self.shared.capability).unwrap_or_default();
        let Some(libraries) = self.shared.libraries.as_ref().filter(|_| self.shared.context.bind().is_ok()) else {
            return own;
        };
        let mut all = libraries.candidates(&node.op, &types);
        match own.is_empty() && !all.is_empty() {
            true => all.push("own".into()), // the only one, which has no name
            false => all.extend(own),
        }
        all
    }

    fn trusted(&self, candidates: &[String]) -> usize {
        candidates.iter().position(|name| !is_library(name)).unwrap_or(0)
    }

    fn choose(&mut self, choices: Choices) {
        self.choices = Arc::new(choices);
    }

    fn prepare(&mut self, graph: &Graph) {
        let shared = &self.shared;
        if let Ok(lowered) = lower(shared.capability, &self.choices, shared.max_buffer, graph, &plan(graph, &[])) {
            let _ = shared.kernels().get(&shared.context, &lowered.dispatches);
        }
    }

    fn compile(&mut self, graph: &Graph, outputs: &[ValueId]) -> Result<Box<dyn Program>> {
        let shared = &self.shared;
        // What a library cannot run after all, or has too little memory for, the own kernels can.
        let (mut own, mut refused) = (BTreeSet::new(), Vec::new());
        loop {
            let before = own.len();
            let program =
                CudaProgram::compile(shared.clone(), &self.variables, &self.choices, graph, outputs, &mut own);
            match program {
                Err(error) if shared.libraries.is_some() && own.len() < graph.nodes.len() => {
                    refused.push(match own.len() == before {
                        true => format!("NVIDIA's libraries are left out, so it is slower than it could be: {error}"),
                        false => format!("{error}: convoy's own kernel computes it, in f32"),
                    });
                    if own.len() == before {
                        own.extend(0..graph.nodes.len());
                    }
                }
                program => {
                    let mut program = program?;
                    program.refused = refused;
                    return Ok(Box::new(program));
                }
            }
        }
    }
}
