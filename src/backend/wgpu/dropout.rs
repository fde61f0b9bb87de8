//! Lowering of dropout.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::dropout::FORWARD;
use crate::error::Result;
use crate::ops::Dropout;

impl WgpuOp for Dropout {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let counter = cx.whole(&inputs[1])?;
        cx.each(&FORWARD, &[("x", &inputs[0]), ("y", &outputs[0])], |d, range| {
            d.bind("counter", counter)
                .set("first_block", (range.start / 4) as u32)
                .set("stream", self.stream)
                .set("threshold", self.threshold())
                .set("scale", self.scale())
        })
    }
}
