//! What products by tiles in workgroup memory have in common: enough workgroups to keep a device busy.

use super::biased::Epilogue;
use super::lowering::{Capability, Lowering, Window};
use super::shaders::{Kernel, parts};
use crate::backend::Precision;
use crate::error::Result;

/// A kernel, and the rows and columns of a product that a workgroup of it makes.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub kernel: &'static Kernel,
    /// Its twin in 16-bit floats.
    pub f16: &'static Kernel,
    pub rows: usize,
    pub columns: usize,
}

impl Tile {
    /// What runs on a device.
    pub fn kernel(&self, capability: &Capability) -> &'static Kernel {
        match capability.precision {
            Precision::F32 | Precision::Tf32 | Precision::Bf16 => self.kernel,
            Precision::F16 { .. } => self.f16,
        }
    }
}

/// How a product is computed by tiles.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub tile: &'static Tile,
    /// What the kernel's pipeline is told.
    pub constant: Option<(&'static str, f64)>,
}

/// Workgroups that keep a large GPU busy; with fewer tiles than these, the sums are cut.
const BUSY: usize = 512;

/// Fewer terms than these are not worth a workgroup of their own.
const FEW_TERMS: usize = 256;

/// Terms of each part of a sum of `terms`, for a product of so many tiles and elements.
pub(super) fn part(cx: &Lowering, tiles: usize, terms: usize, elements: usize) -> usize {
    let most = cx.capability.max_window as usize / 4 / elements;
    let parts = (BUSY / tiles).min(terms / FEW_TERMS).min(most).max(1);
    terms.div_ceil(parts).next_multiple_of(16)
}

/// A sum of partial results: `parts` of them, each of all groups' elements side by side, `[rows, columns]` in a group.
pub(super) struct Parts {
    pub elements: usize,
    pub parts: usize,
    pub rows: usize,
    pub columns: usize,
    pub accumulate: bool,
    pub epilogue: Option<Epilogue>,
}

impl Parts {
    /// `target` (+)= the sum.
    pub fn sum(&self, cx: &mut Lowering, partial: Window, target: Window) -> Result<()> {
        cx.dispatch(&parts::SUM_PARTS)
            .bind("partial", partial)
            .bind("y", target)
            .epilogue(self.epilogue, partial)
            .set("count", self.elements as u32)
            .set("parts", self.parts as u32)
            .set("y_first", target.first)
            .set("accumulate", self.accumulate as u32)
            .set("extent", [self.rows as u32, self.columns as u32])
            .threads(self.elements)
    }
}
