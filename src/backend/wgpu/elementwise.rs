//! Lowering of element-wise arithmetic.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::elementwise::{ADD, FILL, MUL, SCALE};
use crate::error::Result;
use crate::ops::{Add, Fill, Mul, Scale};

impl WgpuOp for Add {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        cx.each(&ADD, &[("a", &inputs[0]), ("b", &inputs[1]), ("y", &outputs[0])], |d, _| d)
    }
}

impl WgpuOp for Mul {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        cx.each(&MUL, &[("a", &inputs[0]), ("b", &inputs[1]), ("y", &outputs[0])], |d, _| d)
    }
}

impl WgpuOp for Scale {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        cx.each(&SCALE, &[("a", &inputs[0]), ("y", &outputs[0])], |d, _| d.set("value", self.factor))
    }
}

impl WgpuOp for Fill {
    fn lower(&self, cx: &mut Lowering, _: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        cx.each(&FILL, &[("y", &outputs[0])], |d, _| d.set("value", self.value))
    }
}
