//! The CUDA backend: NVIDIA's GPUs through their own driver.
//!
//! It runs the same kernels that the wgpu backend runs: `wgpu::lower` turns a graph into dispatches, `translate` their WGSL into CUDA C++,
//! `compiler` that into machine code, and `program` records a step's launches, to be run as a whole, and `stage`
//! brings inputs in and results out. Convolutions and fully connected layers
//! are `cudnn`'s and `cublaslt`'s where these are installed (`libraries`). NVIDIA's files are looked for
//! when a device is asked for (`library`): nothing of them is needed to build.

pub mod adapter;
mod casts;
mod compiler;
mod cublaslt;
mod cudnn;
mod device;
mod driver;
#[cfg(test)]
mod fake;
mod kernels;
mod libraries;
mod library;
mod program;
mod stage;
#[cfg(test)]
mod suite;
pub(in crate::backend) mod translate;

pub use device::CudaDevice;
