//! Files that other programs read too, and how any file of a run is written.

pub mod atomic;
mod checkpoint;
pub mod safetensors;

pub use checkpoint::Checkpoint;
