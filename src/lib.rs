//! convoy trains and runs convolutional image classifiers, AlexNet first, on any vendor's GPU: WGSL compute shaders for
//! every forward and backward pass, scheduled by a graph executor through wgpu, with a CPU backend where there is no GPU.
//!
//! # The map
//!
//! | module | what lives there |
//! |---|---|
//! | [`tensor`], [`rng`], [`error`] | shapes and host tensors; Philox, the one source of randomness; the one error type |
//! | [`ops`] | one file per operator: shape rule, gradient rule, f64 reference, test cases; THE list of operators |
//! | [`graph`] | typed values and nodes; [`graph::autodiff`] appends the backward nodes; [`graph::fuse`] rewrites; [`mod@graph::partition`] cuts a step over devices; [`graph::plan`] gives values memory |
//! | [`models`] | the model zoo (TOML), the reader of model files; [`models::train_graph`] and [`models::eval_graph`] |
//! | [`data`] | finds, labels and splits pictures; decodes them on worker threads into batches; keeps what was decoded |
//! | [`train`] | settings and presets, the loop, schedules, metrics, the run's folder |
//! | [`report`] | pictures of a run and curves of several, for people |
//! | [`formats`], [`classifier`] | safetensors, checkpoints, ONNX; a checkpoint on a device that predicts |
//! | [`mod@tune`] | times the kernels that a node can be run by, and remembers the fastest |
//! | [`selftest`] | every operator's cases on a device, against the f64 reference; gradients against differences |
//! | [`mod@bench`] | how long steps take on made-up pictures, as a whole and node by node |
//! | [`backend`] | what a device must do; `backend::wgpu` (with `shaders/`), `backend::cuda` (the same kernels, translated), `backend::cpu`; [`backend::several`] devices as one; the choice of a device |
//!
//! Still to come, each with its place: in [`report`] the other pictures and the HTML page of a run, and in `formats` TensorBoard.
//!
//! An operator has the same stem everywhere: `ops/lrn.rs`, `shaders/lrn.wgsl`, `backend/wgpu/lrn.rs`, `backend/cpu/lrn.rs`.
//!
//! # The way of one training step
//!
//! Files are scanned for labels and split; worker threads decode and resize them; a batch goes to the device as u8 in one
//! upload. From there all is one compiled plan in one submit: augment and normalise, forward, loss, backward, optimizer.
//! The loss is read back some steps late, so that nothing waits for the device.
//!
//! 1. A model file becomes a [`graph::Graph`]: plain data, shapes fixed when a node is added.
//! 2. [`graph::autodiff::gradients`] walks it backwards; each op's gradient rule appends ordinary nodes. The optimizers are
//!    nodes too, which update parameters in place.
//! 3. [`graph::fuse::fuse`] rewrites what can run faster: a linear layer's gradient and the update of its weight are one node.
//! 4. [`graph::plan::plan`] finds lifetimes and gives values that never live together the same slot of memory.
//! 5. [`backend::Device::compile`] builds pipelines and bind groups once; [`backend::Program::submit`] runs a step.
//!
//! Of several devices each runs its part: [`graph::partition::partition`] comes before the plan, and a step is a submit for each stage
//! between two exchanges.
//!
//! Randomness is a function of (seed, stream, step, index), the same in Rust and WGSL, so a run repeats and resumes to the
//! bit, and two devices see the same dropout masks.

#![warn(missing_docs)]

// Unit tests share code with those of tests/, which know the crate by its name.
#[cfg(test)]
extern crate self as convoy;

pub mod backend;
pub mod bench;
pub mod cache;
pub mod classifier;
pub mod data;
pub mod error;
pub mod formats;
pub mod graph;
pub mod models;
pub mod ops;
pub mod report;
pub mod rng;
pub mod selftest;
pub mod tensor;
pub mod train;
pub mod tune;

pub use classifier::Classifier;
pub use error::{Error, Result};
