//! What runs look like: their curves in a picture.

mod chart;
mod compare;

pub use chart::{Chart, Line};
pub use compare::{Curves, Point};
