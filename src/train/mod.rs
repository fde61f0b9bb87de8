//! Training: from settings and a folder of pictures to a run folder with checkpoints and metrics.
//!
//! [`config`] merges a preset, a file and options into [`Settings`]; [`Job`] applies them to a model and pictures; [`train`] is the loop;
//! [`schedule`] says the learning rate of each step; [`metrics`] counts; [`position`] is the state of a run beside its tensors;
//! [`run_folder`] is where everything is written.

mod advice;
pub mod balance;
mod choices;
pub mod config;
mod event;
mod feed;
mod job;
pub mod metrics;
mod mixing;
mod pictures;
pub mod position;
pub mod preset;
pub mod run_folder;
pub mod schedule;
mod state;
mod statistics;
mod trainer;
mod unreadable;

pub use advice::advice;
pub use balance::Balance;
pub use config::Settings;
pub use event::{Event, Outcome, Stopped};
pub use job::Job;
pub use preset::Preset;
pub use run_folder::{Lock, RunFolder};
pub use trainer::train;
pub use unreadable::lost_classes;
