//! Lowering of local response normalisation, in pieces of whole groups of channels.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::Kernel;
use super::shaders::lrn::{BACKWARD, BACKWARD_5, FORWARD, FORWARD_5};
use crate::error::Result;
use crate::ops::{Lrn, LrnBackward};

impl WgpuOp for Lrn {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        lower(self, [&FORWARD, &FORWARD_5], cx, &inputs[0], None, &outputs[0])
    }
}

impl WgpuOp for LrnBackward {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        lower(&self.lrn, [&BACKWARD, &BACKWARD_5], cx, &inputs[0], Some(&inputs[1]), &outputs[0])
    }
}

/// Channels that an invocation of the kernels for windows of five makes.
const RUN: usize = 16;

/// Invocations that keep a large GPU busy; with fewer than these, each makes one channel.
const BUSY: usize = 1 << 16;

/// `kernels` are that for any window and that for one of five channels.
fn lower(
    lrn: &Lrn,
    kernels: [&Kernel; 2],
    cx: &mut Lowering,
    a: &ValueRef,
    db: Option<&ValueRef>,
    out: &ValueRef,
) -> Result<()> {
    // A group of channels is as a picture of its own.
    let (n, channels) = (a.ty.shape[0] * lrn.groups, a.ty.shape[1] / lrn.groups);
    for range in cx.rows(n, &[a])? {
        let a_window = cx.row_window(a, n, &range)?;
        let db_window = db.map(|db| cx.row_window(db, n, &range)).transpose()?;
        let out_window = cx.row_window(out, n, &range)?;
        let plane = a.elements() / (n * channels);
        let runs = range.len() * channels.div_ceil(RUN) * plane;
        let (dispatch, count) = if lrn.size == 5 && (cx.capability.software || runs >= BUSY) {
            (cx.dispatch(kernels[1]), runs)
        } else {
            let dispatch = cx.dispatch(kernels[0]).constant("RADIUS", (lrn.size / 2) as u32);
            (dispatch, range.len() * channels * plane)
        };
        let mut dispatch = dispatch
            .bind("a", a_window)
            .bind("out", out_window)
            .constant("BETA", lrn.beta)
            .set("count", count as u32)
            .set("channels", channels as u32)
            .set("plane", plane as u32)
            .set("a_first", a_window.first)
            .set("db_first", db_window.map_or(0, |w| w.first))
            .set("out_first", out_window.first)
            .set("k", lrn.k)
            .set("alpha", lrn.alpha);
        if let Some(window) = db_window {
            dispatch = dispatch.bind("db", window);
        }
        dispatch.threads(count)?;
    }
    Ok(())
}
