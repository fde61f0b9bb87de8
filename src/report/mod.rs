//! Pictures of a run and curves of several, for people.

mod chart;
mod compare;
mod samples;

pub use chart::{Chart, Line};
pub use compare::{Curves, Point};
pub use samples::Samples;
