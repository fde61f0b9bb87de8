//! Training: from settings and a folder of pictures to a run folder with checkpoints and metrics.
//!
//! [`config`] merges a preset, a file and options into [`Settings`]; [`trainer`] is the loop; [`schedule`] says the learning rate of
//! each step; [`metrics`] counts; [`checkpoint`] is what a weights file holds; [`run_folder`] is where everything is written;
//! [`inference`] runs a network on pictures and serves validation, `eval` and `predict` alike.

pub mod checkpoint;
pub mod config;
pub mod inference;
pub mod metrics;
pub mod preset;
pub mod run_folder;
pub mod schedule;
pub mod trainer;

pub use checkpoint::Checkpoint;
pub use config::Settings;
pub use inference::Classifier;
pub use preset::Preset;
pub use run_folder::RunFolder;
pub use trainer::{Event, Outcome, train};
