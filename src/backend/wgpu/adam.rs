//! Lowering of Adam's and AdamW's update.

use super::WgpuOp;
use super::dispatch::Builder;
use super::lowering::{Lowering, ValueRef};
use super::shaders::adam::UPDATE;
use crate::error::Result;
use crate::ops::Adam;

impl WgpuOp for Adam {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], _: &[ValueRef]) -> Result<()> {
        let [w, g, m, v, schedule] = inputs else { unreachable!("infer asks for five inputs") };
        let schedule = cx.whole(schedule)?;
        cx.each(&UPDATE, &[("w", w), ("g", g), ("m", m), ("v", v)], |d, _| self.set(d.bind("schedule", schedule)))
    }
}

impl Adam {
    /// Sets what `adam_step` of `shaders/optimizer_step.wgsl` needs.
    pub(super) fn set<'a>(&self, dispatch: Builder<'a>) -> Builder<'a> {
        self.set_form(dispatch).set("weight_decay", self.weight_decay).set("lr_scale", self.lr_scale)
    }

    /// Sets of it what all parameters have in common.
    pub(super) fn set_form<'a>(&self, dispatch: Builder<'a>) -> Builder<'a> {
        dispatch
            .constant("DECOUPLED", self.decoupled)
            .set("beta1", self.beta1)
            .set("beta2", self.beta2)
            .set("one_minus_beta1", (1.0 - self.beta1 as f64) as f32)
            .set("one_minus_beta2", (1.0 - self.beta2 as f64) as f32)
            .set("epsilon", self.epsilon)
    }
}
