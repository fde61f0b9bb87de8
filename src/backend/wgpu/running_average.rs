//! Lowering of the running average.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::running_average::UPDATE;
use crate::error::Result;
use crate::ops::RunningAverage;

impl WgpuOp for RunningAverage {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], _: &[ValueRef]) -> Result<()> {
        let [old, new] = self.weights();
        cx.each(&UPDATE, &[("average", &inputs[0]), ("measured", &inputs[1])], |d, _| {
            d.set("old_weight", old).set("new_weight", new)
        })
    }
}
