//! Lowering of softmax and log-softmax: one workgroup per row.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::softmax::{BACKWARD, FORWARD};
use crate::error::Result;
use crate::ops::{Softmax, SoftmaxBackward};

impl WgpuOp for Softmax {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        lower(self.log, cx, &inputs[0], None, &outputs[0])
    }
}

impl WgpuOp for SoftmaxBackward {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        lower(self.log, cx, &inputs[0], Some(&inputs[1]), &outputs[0])
    }
}

/// The backward pass where there is a `dy`; `x` is then the forward result.
fn lower(log: bool, cx: &mut Lowering, x: &ValueRef, dy: Option<&ValueRef>, out: &ValueRef) -> Result<()> {
    let (n, classes) = (x.ty.shape[0], x.ty.shape[1]);
    for range in cx.rows(n, &[x])? {
        let x_window = cx.row_window(x, n, &range)?;
        let dy_window = dy.map(|dy| cx.row_window(dy, n, &range)).transpose()?;
        let out_window = cx.row_window(out, n, &range)?;
        let mut dispatch = cx
            .dispatch(if dy.is_some() { &BACKWARD } else { &FORWARD })
            .bind("x", x_window)
            .bind("out", out_window)
            .constant("LOG", log)
            .set("rows", range.len() as u32)
            .set("classes", classes as u32)
            .set("in_first", x_window.first)
            .set("dy_first", dy_window.map_or(0, |w| w.first))
            .set("out_first", out_window.first);
        if let Some(window) = dy_window {
            dispatch = dispatch.bind("dy", window);
        }
        dispatch.groups(range.len())?;
    }
    Ok(())
}
