//! Photographs for convoy: JPEG into pixels, and these into another size, by libraries whose loops are generic. They are compiled with
//! whoever calls them, so that is a crate of its own, compiled as one unit: convoy is compiled in several, without inlining between
//! them, for the time that takes, and there resizing takes six times as long.

#![warn(missing_docs)]

mod jpeg;
mod reduced;
mod resize;

pub use jpeg::Jpeg;
pub use reduced::{Reduced, reduced};
pub use resize::{Picture, Resizer};
