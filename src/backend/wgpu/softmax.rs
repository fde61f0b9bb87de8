//! Lowering of softmax and log-softmax: one workgroup per row.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::softmax::{BACKWARD, FORWARD};
use crate::error::Result;
use crate::ops::{Softmax, SoftmaxBackward};

impl WgpuOp for Softmax {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        cx.check_iterations(self, row_iterations(&inputs[0]), "use fewer classes")?;
        lower(self.log, cx, &inputs[0], None, &outputs[0])
    }
}

impl WgpuOp for SoftmaxBackward {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        cx.check_iterations(self, row_iterations(&inputs[0]), "use fewer classes")?;
        lower(self.log, cx, &inputs[0], Some(&inputs[1]), &outputs[0])
    }
}

/// Iterations of an invocation on a row of [rows, classes]: three rounds, and the reductions of the workgroup.
pub(super) fn row_iterations(x: &ValueRef) -> usize {
    3 * x.ty.shape[1].div_ceil(256) + 16
}

/// The backward pass where there is a `dy`; `x` is then the forward result.
fn lower(log: bool, cx: &mut Lowering, x: &ValueRef, dy: Option<&ValueRef>, out: &ValueRef) -> Result<()> {
    let (n, classes) = (x.ty.shape[0], x.ty.shape[1]);
    for range in cx.rows(n, &[x])? {
        let x_window = cx.row_window(x, n, &range)?;
        let dy_window = dy.map(|dy| cx.row_window(dy, n, &range)).transpose()?;
        let out_window = cx.row_window(out, n, &range)?;
        // All are of one shape, and cut alike.
        assert_eq!(x_window.first, out_window.first);
        let mut dispatch = cx
            .dispatch(if dy.is_some() { &BACKWARD } else { &FORWARD })
            .bind("x", x_window)
            .bind("out", out_window)
            .constant("LOG", log)
            .set("rows", range.len() as u32)
            .set("classes", classes as u32)
            .set("first", x_window.first);
        if let Some(window) = dy_window {
            dispatch = dispatch.bind("dy", window);
        }
        dispatch.groups(range.len())?;
    }
    Ok(())
}
