//! Lowering of SGD's update.

use super::WgpuOp;
use super::dispatch::Builder;
use super::lowering::{Lowering, ValueRef};
use super::shaders::sgd::UPDATE;
use crate::error::Result;
use crate::ops::Sgd;

impl WgpuOp for Sgd {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], _: &[ValueRef]) -> Result<()> {
        let [w, g, v, schedule] = inputs else { unreachable!("infer asks for four inputs") };
        let schedule = cx.whole(schedule)?;
        cx.each(&UPDATE, &[("w", w), ("g", g), ("v", v)], |d, _| self.set(d.bind("schedule", schedule)))
    }
}

impl Sgd {
    /// Sets what `sgd_step` of `shaders/optimizer_step.wgsl` needs.
    pub(super) fn set<'a>(&self, dispatch: Builder<'a>) -> Builder<'a> {
        self.set_form(dispatch).set("weight_decay", self.weight_decay).set("lr_scale", self.lr_scale)
    }

    /// Sets of it what all parameters have in common.
    pub(super) fn set_form<'a>(&self, dispatch: Builder<'a>) -> Builder<'a> {
        dispatch.constant("PAPER", self.paper).constant("NESTEROV", self.nesterov).set("momentum", self.momentum)
    }
}
