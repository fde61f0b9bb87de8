//! The wgpu backend: WGSL compute shaders on Vulkan, Metal, DX12 and GL.
//!
//! [`adapter`] finds devices, [`WgpuDevice`] opens one and holds parameters, `lowering` turns each op of a graph into
//! dispatches of kernels that `shaders` lists, and `program` runs them, all of a step in one submit. One file per op says
//! how it is lowered; its kernels are in `shaders/<op>.wgsl`.

pub mod adapter;
#[cfg(test)]
pub(in crate::backend) mod dawn;
mod device;
pub(crate) mod dispatch;
#[cfg(test)]
mod expand; // used by build.rs
#[cfg(test)]
mod iterations;
pub(in crate::backend) mod lower;
pub(crate) mod lowering;
mod pipeline;
mod pipeline_cache;
mod probe;
mod profile;
mod program;
pub(crate) mod shaders;
#[cfg(test)]
pub(in crate::backend) mod translate;

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
mod matrices;
mod max_pool2d;
mod mix;
mod multi_update;
mod reduce;
mod reshape;
mod running_average;
mod sgd;
mod softmax;
mod staging;
mod step;
mod texels;
mod tile;

pub use device::WgpuDevice;
pub use matrices::Matrices;

use crate::error::Result;
use crate::ops::case::Case;
use lowering::{ALIGNMENT, Capability, Lowering, ValueRef};

/// Whether a case has kernels that need no more than WebGPU's default limits, and windows of no more than `max_window` bytes.
pub(crate) fn has_kernels(case: &Case, max_window: u64) -> bool {
    let max_window = max_window / ALIGNMENT * ALIGNMENT;
    let capability = |software| Capability { software, ..Capability::gpu(max_window) };
    [true, false].into_iter().all(|software| lower::of_case(case, capability(software)).is_ok())
}

/// Whether a device that the processor runs takes other kernels for a case than a GPU does, or runs them otherwise.
pub(crate) fn differs_in_software(case: &Case) -> bool {
    let dispatches = |software| {
        let capability = Capability { software, subgroup: Some(8), ..Capability::gpu(128 << 20) };
        let lowered = lower::of_case(case, capability).ok()?;
        Some(lowered.iter().map(|it| (it.key(), it.groups, it.uniform.clone())).collect::<Vec<_>>())
    };
    dispatches(true) != dispatches(false)
}

/// How many kernels a case's op chooses between on a GPU, with matrices or without; 1 where there is no choice.
pub(crate) fn kernels(case: &Case, matrices: bool) -> usize {
    let matrices = matrices.then_some(Matrices { size: 8, subgroup: 32 });
    let gpu = Capability { matrices, ..Capability::gpu(128 << 20) };
    lower::candidates(&case.op, &case.types(), gpu).map_or(1, |names| names.len().max(1))
}

/// How an op becomes dispatches. Every op on THE list implements it in its file here.
pub(crate) trait WgpuOp {
    /// Appends the dispatches that compute `outputs` from `inputs`, both in the op's order. An output that aliases an input
    /// has the same memory; all others have memory of their own with any content.
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()>;
}
