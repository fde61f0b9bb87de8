//! Lowering of ReLU, sigmoid, tanh, leaky ReLU and GELU.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::activation::{BACKWARD, FORWARD};
use crate::error::Result;
use crate::ops::{Activation, ActivationBackward, ActivationKind};

/// The shader's KIND.
fn kind(kind: ActivationKind) -> u32 {
    match kind {
        ActivationKind::Relu => 0,
        ActivationKind::Sigmoid => 1,
        ActivationKind::Tanh => 2,
        ActivationKind::LeakyRelu => 3,
        ActivationKind::Gelu => 4,
    }
}

impl WgpuOp for Activation {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        cx.each(&FORWARD, &[("x", &inputs[0]), ("y", &outputs[0])], |d, _| d.constant("KIND", kind(self.kind)))
    }
}

impl WgpuOp for ActivationBackward {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let values = [("forward_y", &inputs[0]), ("dy", &inputs[1]), ("dx", &outputs[0])];
        cx.each(&BACKWARD, &values, |d, _| d.constant("KIND", kind(self.kind)))
    }
}
