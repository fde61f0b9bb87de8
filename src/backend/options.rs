//! How a device is opened.

use std::collections::HashMap;
use std::path::PathBuf;

use super::Precision;
use super::wgpu::Matrices;

/// How to open a device. What is said of shaders and limits is for wgpu's.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// Bind at most this many bytes at once, as if the device could no more: for tests of large values.
    pub max_binding_bytes: Option<u64>,
    /// Run at most this many workgroups in a row of a grid of two dimensions: for tests of grids that are folded.
    pub grid_side: Option<usize>,
    /// Fill fresh memory with NaN, and give every buffer a guard past its end, within the kernels' reach: a test sees what a kernel
    /// forgot to write, and a step fails that writes where it must not.
    pub poison: bool,
    /// Use the kernels that are for GPUs also where the processor runs Vulkan: for tests of them on such a machine.
    pub gpu_kernels: bool,
    /// What products multiply.
    pub precision: Precision,
    /// Run the kernel of this number where there are several for an op, and nothing else is known: for tests of them.
    pub candidate: usize,
    /// Use the kernels of matrices, whatever the device has: for tests of them, with shaders in [`DeviceOptions::replace`] that need none.
    pub matrices: Option<Matrices>,
    /// Run convoy's own kernels also where NVIDIA's libraries have an op: for tests of them.
    pub own_kernels: bool,
    /// Ask for WebGPU's default limits and no feature, as if the device had no more: for tests that the kernels need no more.
    pub default_limits: bool,
    /// Let shaders check indices, divisors and loops when they run, and clear workgroup memory: for tests that they need none of it.
    pub checked: bool,
    /// Folder in which what the driver compiles is kept for the next start.
    pub pipelines: Option<PathBuf>,
    /// Texts of shaders, and what to run in their place: for tests that the tests would notice.
    pub replace: HashMap<String, String>,
}
