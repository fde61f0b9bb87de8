//! ReLU, sigmoid and tanh, and their gradients.

use super::memory::Io;
use super::{CpuOp, parallel};
use crate::ops::{Activation, ActivationBackward, ActivationKind};

impl CpuOp for Activation {
    fn run(&self, mut io: Io) {
        let (x, y) = (io.f32(0), io.output(0));
        match self.kind {
            // Written so that NaN stays NaN.
            ActivationKind::Relu => parallel::map(y, x, |x| if x <= 0.0 { 0.0 } else { x }),
            ActivationKind::Sigmoid => parallel::map(y, x, |x| 1.0 / (1.0 + (-x).exp())),
            ActivationKind::Tanh => parallel::map(y, x, f32::tanh),
        }
    }
}

impl CpuOp for ActivationBackward {
    fn run(&self, mut io: Io) {
        let (y, dy, dx) = (io.f32(0), io.f32(1), io.output(0));
        match self.kind {
            ActivationKind::Relu => parallel::map2(dx, y, dy, |y, dy| if y > 0.0 { dy } else { 0.0 }),
            ActivationKind::Sigmoid => parallel::map2(dx, y, dy, |y, dy| dy * y * (1.0 - y)),
            ActivationKind::Tanh => parallel::map2(dx, y, dy, |y, dy| dy * (1.0 - y * y)),
        }
    }
}
