//! Which of NVIDIA's GPUs this machine has.

use cudarc::driver::sys::CUdevice_attribute as Attribute;

use super::driver::{Gpu, version};
use super::library;
use crate::backend::{DeviceInfo, DeviceType};
use crate::error::{Error, Result};

/// Kernels number elements by 32 bits: the largest part of a value that one of them sees, bytes.
pub(super) const MAX_WINDOW: u64 = 1 << 32;

/// A GPU that can run convoy, and what is known of it.
#[derive(Clone)]
pub struct Adapter {
    /// `index` and `selectors` are for [`crate::backend::select`] to fill in.
    pub info: DeviceInfo,
    pub(super) gpu: Gpu,
}

/// All GPUs that the driver has, in its order.
///
/// # Errors
/// Where there is no driver, or none that works.
pub fn adapters() -> Result<Vec<Adapter>> {
    Gpu::all()?.into_iter().map(describe).collect()
}

/// Why a driver that is there has no GPUs.
pub fn fault() -> Option<Error> {
    library::driver().ok()?;
    adapters().err()
}

fn describe(gpu: Gpu) -> Result<Adapter> {
    let ([major, minor], [of_major, of_minor]) = (gpu.compute_capability()?, version()?);
    let memory_bytes = gpu.memory_bytes()?;
    let integrated = gpu.attribute(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0;
    let info = DeviceInfo {
        index: 0,
        name: gpu.name()?,
        backend: "cuda".into(),
        device_type: if integrated { DeviceType::Integrated } else { DeviceType::Discrete },
        driver: format!("CUDA {of_major}.{of_minor}, compute capability {major}.{minor}"),
        software: false,
        selectors: Vec::new(),
        max_binding_bytes: MAX_WINDOW,
        max_buffer_bytes: memory_bytes,
        memory_bytes: Some(memory_bytes),
        f16: true,
        subgroups: true,
        timestamps: true,
        matrices: false,
    };
    Ok(Adapter { info, gpu })
}
