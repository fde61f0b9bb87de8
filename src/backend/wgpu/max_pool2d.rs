//! Lowering of max-pooling, in pieces of whole planes.

use std::ops::Range;

use super::WgpuOp;
use super::dispatch::Builder;
use super::lowering::{Lowering, ValueRef};
use super::shaders::max_pool2d::{BACKWARD, FIND, FORWARD};
use crate::error::Result;
use crate::ops::{MaxPool2d, MaxPool2dBackward};

/// Iterations of two loops over a window.
pub(super) fn window_iterations([h, w]: [usize; 2]) -> usize {
    h * (w + 1)
}

/// Sets the pipeline constants of `shaders/pool.wgsl`.
pub(super) fn window_constants<'a>(
    dispatch: Builder<'a>,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> Builder<'a> {
    dispatch
        .constant("KERNEL_H", kernel[0] as u32)
        .constant("KERNEL_W", kernel[1] as u32)
        .constant("STRIDE_H", stride[0] as u32)
        .constant("STRIDE_W", stride[1] as u32)
        .constant("PADDING_H", padding[0] as u32)
        .constant("PADDING_W", padding[1] as u32)
}

impl WgpuOp for MaxPool2d {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let (x, y) = (&inputs[0], &outputs[0]);
        cx.check_iterations(self, window_iterations(self.kernel), "make the window smaller")?;
        let planes = x.ty.shape[0] * x.ty.shape[1];
        for range in cx.rows(planes, &[x, y])? {
            let x_window = cx.row_window(x, planes, &range)?;
            let y_window = cx.row_window(y, planes, &range)?;
            let dispatch = cx.dispatch(&FORWARD).bind("x", x_window).bind("out", y_window).set("dy_first", 0);
            let dispatch = extents(dispatch, range.len(), x, y).set("x_first", x_window.first);
            let dispatch = window_constants(dispatch, self.kernel, self.stride, self.padding);
            dispatch.set("out_first", y_window.first).threads(y.elements() / planes * range.len())?;
        }
        Ok(())
    }
}

impl WgpuOp for MaxPool2dBackward {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let MaxPool2d { kernel, stride, padding, .. } = self.pool;
        let (x, dy, dx) = (&inputs[0], &inputs[1], &outputs[0]);
        let overlap = [0, 1].map(|axis| kernel[axis].div_ceil(stride[axis]));
        cx.check_iterations(self, window_iterations(kernel), "make the window smaller")?;
        cx.check_iterations(self, window_iterations(overlap), "the windows overlap too often: raise the stride")?;
        let planes = x.ty.shape[0] * x.ty.shape[1];
        let ranges = cx.rows(planes, &[x, dy])?;
        let windows = |range: &Range<usize>| dy.elements() / planes * range.len();
        let places = cx.scratch(ranges.iter().map(windows).max().unwrap_or(0));
        let places = cx.whole(&places)?;
        for range in ranges {
            let x_window = cx.row_window(x, planes, &range)?;
            let dy_window = cx.row_window(dy, planes, &range)?;
            let dx_window = cx.row_window(dx, planes, &range)?;
            let dispatch = cx.dispatch(&FIND).bind("x", x_window).bind("places", places).set("x_first", x_window.first);
            let dispatch = extents(dispatch, range.len(), x, dy).set("dy_first", 0).set("out_first", 0);
            window_constants(dispatch, kernel, stride, padding).threads(windows(&range))?;
            let dispatch = cx.dispatch(&BACKWARD).bind("found", places).bind("dy", dy_window).bind("out", dx_window);
            let dispatch = extents(dispatch, range.len(), x, dy).set("x_first", 0).set("dy_first", dy_window.first);
            let dispatch = window_constants(dispatch, kernel, stride, padding).set("out_first", dx_window.first);
            dispatch.threads(x.elements() / planes * range.len())?;
        }
        Ok(())
    }
}

/// Sets the extents of pooled planes.
pub(super) fn extents<'a>(dispatch: Builder<'a>, planes: usize, x: &ValueRef, y: &ValueRef) -> Builder<'a> {
    dispatch
        .set("planes", planes as u32)
        .set("h", x.ty.shape[2] as u32)
        .set("w", x.ty.shape[3] as u32)
        .set("p", y.ty.shape[2] as u32)
        .set("q", y.ty.shape[3] as u32)
}
