//! From a folder of pictures to batches of pixels: [`scan`] finds the pictures, gives them labels and splits them,
//! [`decode`] turns a file into pixels of one size, [`Loader`] does so on worker threads and in order.

mod bmp;
pub(crate) mod cache;
mod decode;
mod format;
mod inspect;
mod jpeg;
mod label_file;
mod layout;
mod loader;
mod memory;
mod orientation;
mod pixels;
mod raster;
mod rows;
pub mod sample;
mod scan;
mod speed;
mod split;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;

pub use cache::{PictureCache, Place};
pub use decode::{Resize, decode, decode_bytes};
pub use inspect::{Duplicate, Inspection, inspect};
pub use layout::Labels;
pub use loader::{Batch, Epoch, Loader, LoaderOptions, Skipped};
pub use pixels::Damage;
pub use scan::{ScanOptions, class_counts, scan, scan_labelled};
pub(crate) use speed::unlinked;
pub use speed::{Speed, peak_memory, speed};
pub use walk::pictures;

/// A labelled picture on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where the file is.
    pub path: PathBuf,
    /// The path below the folder that was scanned, with forward slashes on every system.
    pub relative: String,
    /// Number of the class in [`Dataset::classes`].
    pub class: u32,
}

/// The labelled pictures of a folder, in two disjoint parts. Each part is sorted by [`Item::relative`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// The folder that was scanned.
    pub root: PathBuf,
    /// Names of the classes, sorted.
    pub classes: Vec<String>,
    /// Pictures to train on.
    pub train: Arc<Vec<Item>>,
    /// Pictures to validate on.
    pub val: Arc<Vec<Item>>,
    /// Where the classes come from.
    pub labels: Labels,
    /// The folder of the validation pictures; without one the split chose them.
    pub val_folder: Option<PathBuf>,
    /// What the folder holds beside them and was left out; a line each, for people.
    pub notes: Vec<String>,
}
