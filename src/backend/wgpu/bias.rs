//! Lowering of the bias per channel and of its gradient, a sum in two passes.

use std::ops::Range;

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::bias::{CHANNEL_SUMS, COLUMN_SUMS, FORWARD, PLANE_SUMS};
use crate::error::Result;
use crate::ops::{Bias, BiasBackward};

/// Most rounds of one invocation's loop: some drivers end it silently after 65,535.
const MAX_ROUNDS: usize = 16_384;

/// Invocations of a workgroup.
const LANES: usize = 256;

/// Workgroups that keep a GPU busy.
const ENOUGH_GROUPS: usize = 1024;

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
        let (dy, db) = (&inputs[0], &outputs[0]);
        let (n, channels) = (dy.ty.shape[0], dy.ty.shape[1]);
        let inner: usize = dy.ty.shape[2..].iter().product();
        if inner == 1 {
            return column_sums(cx, dy, n, channels, db);
        }
        // Invocations that share a picture's channel.
        let sharing = if cx.capability.software && inner < MAX_ROUNDS { 1 } else { LANES };
        let enough = ENOUGH_GROUPS * LANES / sharing;
        cx.check_iterations(self, inner.div_ceil(sharing) + 16, "make the pictures smaller")?;
        // First a sum for each channel and group of pictures, then over the groups.
        let pieces: Vec<(Range<usize>, usize)> = cx
            .rows(n, &[dy])?
            .into_iter()
            .map(|range| {
                let most = (MAX_ROUNDS / inner.div_ceil(sharing)).max(1);
                let pictures = range.len().div_ceil(enough.div_ceil(channels)).min(most);
                (range, pictures)
            })
            .collect();
        let splits: usize = pieces.iter().map(|(range, pictures)| range.len().div_ceil(*pictures)).sum();
        let sums = cx.scratch(splits * channels);
        let mut first = 0;
        for (range, pictures) in pieces {
            let splits = range.len().div_ceil(pictures);
            let dy_window = cx.row_window(dy, n, &range)?;
            let window = cx.window(&sums, first * channels..(first + splits) * channels)?;
            let kernel = if sharing == 1 { &CHANNEL_SUMS } else { &PLANE_SUMS };
            cx.dispatch(kernel)
                .bind("dy", dy_window)
                .bind("sums", window)
                .set("dy_first", dy_window.first)
                .set("sums_first", window.first)
                .set("rows", range.len() as u32)
                .set("rows_per_split", pictures as u32)
                .set("splits", splits as u32)
                .set("channels", channels as u32)
                .set("inner", inner as u32)
                .groups((splits * channels * sharing).div_ceil(LANES))?;
            first += splits;
        }
        column_sums(cx, &sums, splits, channels, db)
    }
}

/// `out` [columns] = the sums of the columns of `x` [rows, columns], piece by piece where loops or windows are too short.
fn column_sums(cx: &mut Lowering, x: &ValueRef, rows: usize, columns: usize, out: &ValueRef) -> Result<()> {
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
