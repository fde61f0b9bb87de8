//! Lowering of a linear layer's update: its gradient in scratch memory, then the optimizer's step.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use crate::error::Result;
use crate::ops::{LinearBackwardWeight, LinearUpdate, UpdateRule};

impl WgpuOp for LinearUpdate {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let mut gradient = cx.scratch(outputs[0].elements());
        gradient.ty = outputs[0].ty.clone();
        LinearBackwardWeight.lower(cx, &inputs[..2], std::slice::from_ref(&gradient))?;
        let inputs = LinearUpdate::of_rule(inputs, gradient);
        match &self.rule {
            UpdateRule::Sgd(sgd) => sgd.lower(cx, &inputs, outputs),
            UpdateRule::Adam(adam) => adam.lower(cx, &inputs, outputs),
        }
    }
}
