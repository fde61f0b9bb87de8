//! Pictures of a run, for people.

mod samples;

pub use samples::Samples;
