//! Lowering of average-pooling, in pieces of whole planes.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::max_pool2d::{extents, window_constants, window_iterations};
use super::shaders::Kernel;
use super::shaders::avg_pool2d::{BACKWARD, FORWARD};
use crate::error::Result;
use crate::ops::{AvgPool2d, AvgPool2dBackward};

impl WgpuOp for AvgPool2d {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        cx.check_iterations(self, window_iterations(self.kernel), "make the window smaller")?;
        lower(self, &FORWARD, cx, ("x", &inputs[0]), &outputs[0], [&inputs[0], &outputs[0]])
    }
}

impl WgpuOp for AvgPool2dBackward {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let AvgPool2d { kernel, stride, .. } = self.pool;
        let windows = [0, 1].map(|axis| kernel[axis].div_ceil(stride[axis]));
        cx.check_iterations(self, window_iterations(windows), "the windows overlap too often: raise the stride")?;
        lower(&self.pool, &BACKWARD, cx, ("dy", &inputs[0]), &outputs[0], [&outputs[0], &inputs[0]])
    }
}

/// `unpooled` are the values with the larger and the pooled planes.
fn lower(
    pool: &AvgPool2d,
    kernel: &Kernel,
    cx: &mut Lowering,
    (name, input): (&str, &ValueRef),
    output: &ValueRef,
    [unpooled, pooled]: [&ValueRef; 2],
) -> Result<()> {
    let planes = input.ty.shape[0] * input.ty.shape[1];
    for range in cx.rows(planes, &[input, output])? {
        let in_window = cx.row_window(input, planes, &range)?;
        let out_window = cx.row_window(output, planes, &range)?;
        let dispatch = cx.dispatch(kernel).bind(name, in_window).bind("out", out_window);
        let dispatch = extents(dispatch, range.len(), unpooled, pooled);
        window_constants(dispatch, pool.kernel, pool.stride, pool.padding)
            .constant("COUNT_INCLUDE_PAD", pool.count_include_pad)
            .set("in_first", in_window.first)
            .set("out_first", out_window.first)
            .threads(output.elements() / planes * range.len())?;
    }
    Ok(())
}
