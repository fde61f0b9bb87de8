//! Lowering of dropout.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::dropout::FORWARD;
use crate::error::Result;
use crate::ops::{Dropout, Strip};

impl WgpuOp for Dropout {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let counter = cx.whole(&inputs[1])?;
        let Strip { first, width, stride } = self.part;
        // A part in one piece that begins with a block of words needs no word alone.
        let strip = width > 0 || !first.is_multiple_of(4);
        let [width, stride] = if width > 0 { [width, stride] } else { [inputs[0].elements().max(1); 2] };
        cx.each(&FORWARD, &[("x", &inputs[0]), ("y", &outputs[0])], |d, range| {
            d.bind("counter", counter)
                .constant("STRIP", strip)
                .set("first_block", ((first + range.start) / 4) as u32)
                .set("begin", range.start as u32)
                .set("first", first as u32)
                .set("width", width as u32)
                .set("stride", stride as u32)
                .set("stream", self.stream)
                .set("threshold", self.threshold())
                .set("scale", self.scale())
        })
    }
}
