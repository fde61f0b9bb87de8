//! Lowering of joining along channels, and of its gradient, in pieces of whole rows, or of the one row there is.

use super::WgpuOp;
use super::lowering::{ALIGNMENT, Lowering, ValueRef};
use super::shaders::concat::COPY;
use crate::error::Result;
use crate::ops::{Concat, ConcatBackward};

impl WgpuOp for Concat {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let rows = outputs[0].ty.shape[0];
        let mut first = 0;
        for x in inputs {
            let width = x.elements() / rows;
            copy(cx, (x, 0), (&outputs[0], first), width)?;
            first += width;
        }
        Ok(())
    }
}

impl WgpuOp for ConcatBackward {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let (dy, dx) = (&inputs[0], &outputs[0]);
        let inner: usize = dy.ty.shape[2..].iter().product();
        copy(cx, (dy, self.first * inner), (dx, 0), self.channels * inner)
    }
}

/// Copies `width` elements of each row from one place in it to another.
fn copy(cx: &mut Lowering, from: (&ValueRef, usize), to: (&ValueRef, usize), width: usize) -> Result<()> {
    let rows = to.0.ty.shape[0];
    if rows == 1 {
        return copy_row(cx, from, to, width);
    }
    for range in cx.rows(rows, &[from.0, to.0])? {
        let x = cx.row_window(from.0, rows, &range)?.skip(from.1);
        let out = cx.row_window(to.0, rows, &range)?.skip(to.1);
        let count = range.len() * width;
        cx.dispatch(&COPY)
            .bind("x", x)
            .bind("out", out)
            .set("count", count as u32)
            .set("width", width as u32)
            .set("in_stride", (from.0.elements() / rows) as u32)
            .set("in_first", x.first)
            .set("out_stride", (to.0.elements() / rows) as u32)
            .set("out_first", out.first)
            .threads(count)?;
    }
    Ok(())
}

/// The same of a single row, in pieces whose windows fit wherever they begin.
fn copy_row(cx: &mut Lowering, from: (&ValueRef, usize), to: (&ValueRef, usize), width: usize) -> Result<()> {
    let piece = (cx.capability.max_window - ALIGNMENT).max(ALIGNMENT / 2) as usize / 4;
    for start in (0..width).step_by(piece) {
        let count = piece.min(width - start);
        let window = |(value, first): (&ValueRef, usize)| cx.window(value, first + start..first + start + count);
        let (x, out) = (window(from)?, window(to)?);
        cx.dispatch(&COPY)
            .bind("x", x)
            .bind("out", out)
            .set("count", count as u32)
            .set("width", count as u32)
            .set("in_stride", 0u32)
            .set("in_first", x.first)
            .set("out_stride", 0u32)
            .set("out_first", out.first)
            .threads(count)?;
    }
    Ok(())
}
