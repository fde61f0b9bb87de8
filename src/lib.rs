//! convoy trains and runs convolutional image classifiers on any GPU.
pub mod backend;
pub mod error;
pub mod graph;
pub mod models;
pub mod ops;
pub mod rng;
pub mod tensor;
pub use error::{Error, Result};
