//! 2-D convolution (cross-correlation, as the field says it): forward, and backward to input and weight. The bias is an op of its own.

use super::{Array, Forward, Operator, case::{Case, CaseInput}};
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::tensor::{Shape, TensorType};

/// y[n,o,p,q] = sum over c,r,s of x[n, c, p*stride+r*dilation-padding, ...] * w[o,c,r,s].
/// Inputs: x [N, C, H, W], w [O, C/groups, R, S]. Output: y [N, O, P, Q].
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2d {
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Zeros added on each side: top and bottom, left and right.
    pub padding: [usize; 2],
    /// Distance between taps.
    pub dilation: [usize; 2],
    /// Output channel o sees only the input channels of its group.
    pub groups: usize,
}

/// Gradient of [`Conv2d`] to its input. Inputs: dy [N, O, P, Q], w [O, C/groups, R, S]. Output: dx [N, C, H, W].
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2dBackwardInput {
    /// The forward convolution.
    pub conv: Conv2d,
    /// H and W of the forward input.
    pub input: [usize; 2],
}

/// Gradient of [`Conv2d`] to its weight. Inputs: x [N, C, H, W], dy [N, O, P, Q]. Output: dw [O, C/groups, R, S].
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2dBackwardWeight {
    /// The forward convolution.
    pub conv: Conv2d,
    /// R and S.
    pub kernel: [usize; 2],
}
