//! ReLU, sigmoid, tanh, leaky ReLU and GELU, and their gradients.

use super::memory::Io;
use super::{CpuOp, parallel};
use crate::ops::{Activation, ActivationBackward, ActivationKind, LEAKY_SLOPE};

impl CpuOp for Activation {
    fn run(&self, mut io: Io) {
        let (x, y) = (io.f32(0), io.output(0));
        match self.kind {
            // Written so that NaN stays NaN.
            ActivationKind::Relu => parallel::map(y, x, |x| if x <= 0.0 { 0.0 } else { x }),
            ActivationKind::Sigmoid => parallel::map(y, x, |x| 1.0 / (1.0 + (-x).exp())),
            ActivationKind::Tanh => parallel::map(y, x, f32::tanh),
            ActivationKind::LeakyRelu => parallel::map(y, x, leaky),
            ActivationKind::Gelu => parallel::map(y, x, |x| x * below(x)),
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
            ActivationKind::LeakyRelu => parallel::map2(dx, y, dy, |y, dy| if y > 0.0 { dy } else { LEAKY_SLOPE * dy }),
            ActivationKind::Gelu => parallel::map2(dx, y, dy, |x, dy| {
                // 1 / sqrt(2 pi)
                let density = 0.398_942_3 * (-0.5 * x * x).exp();
                dy * (below(x) + x * density)
            }),
        }
    }
}

#[inline(always)]
fn leaky(x: f32) -> f32 {
    if x > 0.0 { x } else { LEAKY_SLOPE * x }
}

/// The probability that a normal number is below x: 0.5 (1 + erf(x / sqrt(2))), erf by Eigen's rational function, within 6e-8 * 5.4.
#[inline(always)]
fn below(x: f32) -> f32 {
    let t = (x * std::f32::consts::FRAC_1_SQRT_2).clamp(-3.92, 3.92);
    let s = t * t;
    let p = -2.726_142_3e-10;
    let p = p * s + 2.770_681_4e-8;
    let p = p * s - 2.101_024e-6;
    let p = p * s - 5.692_506_4e-5;
    let p = p * s - 7.349_906_3e-4;
    let p = p * s - 2.954_6e-3;
    let p = p * s - 1.609_603_3e-2;
    let q = -1.456_607_2e-5;
    let q = q * s - 2.133_740_6e-4;
    let q = q * s - 1.682_827e-3;
    let q = q * s - 7.373_329e-3;
    let q = q * s - 1.426_473_9e-2;
    // Beyond, erf is 1 to the last digit; NaN stays.
    let erf = if t.abs() < 3.92 { t * p / q } else { t / 3.92 };
    0.5 * (1.0 + erf)
}
