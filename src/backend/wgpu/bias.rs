//! Lowering of the bias per channel and of its gradient, a sum in two passes.

use std::ops::Range;

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::bias::{CHANNEL_SUMS, COLUMN_SUMS, FORWARD, PLANE_SUMS};
use crate::error::Result;
use crate::ops::{Bias, BiasBackward, Operator};

/// Most rounds of one invocation's loop: some drivers end it silently after 65,535.
const MAX_ROUNDS: usize = 16_384;

/// Invocations of a workgroup.
const LANES: usize = 256;

/// Workgroups that keep a GPU busy.
const ENOUGH_GROUPS: usize = 1024;

/// Terms of a group's sum at least, where there are so many.
const FEWEST_TERMS: usize = 8;

impl WgpuOp for Bias {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let (x, bias) = (&inputs[0], cx.whole(&inputs[1])?);
        let inner: usize = x.ty.shape[2..].iter().product();
        cx.each(&FORWARD, &[("x", x), ("y", &outputs[0])], |d, range| {
            d.bind("bias", bias)
                .set("first", range.start as u32)
                .set("channels", x.ty.shape[1] as u32)
                .set("inner", inner as u32)
        })
    }
}

impl WgpuOp for BiasBackward {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        sum_channels(cx, self, &inputs[0], &outputs[0])
    }
}

/// How sums over all but the channels of `[N, C, inner]` are cut: first one for each channel and group of pictures, then over the
/// groups.
pub(super) struct Cut {
    /// Invocations that share a picture's channel: a workgroup's, or 1.
    pub sharing: usize,
    /// Ranges of pictures that fit into a window, and how many of them a group has.
    pub pieces: Vec<(Range<usize>, usize)>,
    /// Groups in all.
    pub splits: usize,
}

impl Cut {
    /// For an op that sums up `x`.
    pub fn new(cx: &Lowering, op: &dyn Operator, x: &ValueRef) -> Result<Cut> {
        let (n, channels) = (x.ty.shape[0], x.ty.shape[1]);
        let inner: usize = x.ty.shape[2..].iter().product();
        let alone = inner == 1 || (cx.capability.software && inner < MAX_ROUNDS);
        let sharing = if alone { 1 } else { LANES };
        let enough = ENOUGH_GROUPS * LANES / sharing;
        cx.check_iterations(op, inner.div_ceil(sharing) + 16, "make the pictures smaller")?;
        // Sums of fewer terms would take as much room as what they are of.
        let fewest = FEWEST_TERMS.div_ceil(inner);
        let pieces = cx.rows(n, &[x])?.into_iter().map(|range| {
            let most = (MAX_ROUNDS / inner.div_ceil(sharing)).max(1);
            let pictures = range.len().div_ceil(enough.div_ceil(channels)).max(fewest).min(most);
            (range, pictures)
        });
        let pieces: Vec<(Range<usize>, usize)> = pieces.collect();
        let splits = pieces.iter().map(|(range, pictures)| range.len().div_ceil(*pictures)).sum();
        Ok(Cut { sharing, pieces, splits })
    }

    /// Workgroups for so many sums.
    pub fn groups(&self, sums: usize) -> usize {
        (sums * self.sharing).div_ceil(LANES)
    }
}

/// `out` [C] = the sums of x `[N, C, ...]` over all but the channels.
pub(super) fn sum_channels(cx: &mut Lowering, op: &dyn Operator, x: &ValueRef, out: &ValueRef) -> Result<()> {
    let (n, channels) = (x.ty.shape[0], x.ty.shape[1]);
    let inner: usize = x.ty.shape[2..].iter().product();
    if inner == 1 {
        return column_sums(cx, x, n, channels, out);
    }
    let cut = Cut::new(cx, op, x)?;
    let sums = cx.scratch(cut.splits * channels);
    let mut first = 0;
    for (range, pictures) in &cut.pieces {
        let splits = range.len().div_ceil(*pictures);
        let x_window = cx.row_window(x, n, range)?;
        let window = cx.window(&sums, first * channels..(first + splits) * channels)?;
        cx.dispatch(if cut.sharing == 1 { &CHANNEL_SUMS } else { &PLANE_SUMS })
            .bind("dy", x_window)
            .bind("sums", window)
            .set("dy_first", x_window.first)
            .set("sums_first", window.first)
            .set("rows", range.len() as u32)
            .set("rows_per_split", *pictures as u32)
            .set("splits", splits as u32)
            .set("channels", channels as u32)
            .set("inner", inner as u32)
            .groups(cut.groups(splits * channels))?;
        first += splits;
    }
    column_sums(cx, &sums, cut.splits, channels, out)
}

/// `out` [columns] = the sums of the columns of `x` [rows, columns], piece by piece where loops or windows are too short.
pub(super) fn column_sums(cx: &mut Lowering, x: &ValueRef, rows: usize, columns: usize, out: &ValueRef) -> Result<()> {
    let sums = cx.whole(out)?;
    for piece in cx.rows(rows, &[x])? {
        for start in piece.clone().step_by(MAX_ROUNDS) {
            let range = start..piece.end.min(start + MAX_ROUNDS);
            let x = cx.row_window(x, rows, &range)?;
            cx.dispatch(&COLUMN_SUMS)
                .bind("dy", x)
                .bind("sums", sums)
                .set("dy_first", x.first)
                .set("rows", range.len() as u32)
                .set("columns", columns as u32)
                .set("accumulate", (start > 0) as u32)
                .threads(columns)?;
        }
    }
    Ok(())
}
