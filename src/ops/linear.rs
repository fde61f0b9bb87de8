//! Fully connected layer without its bias: forward, and backward to input and weight.

/// y[n,o] = sum over i of x[n,i] * w[o,i]. Inputs: x [N, I], w [O, I]. Output: y [N, O].
#[derive(Clone, Debug, PartialEq)]
pub struct Linear;

/// Inputs: dy [N, O], w [O, I]. Output: dx [N, I], dx[n,i] = sum over o of dy[n,o] * w[o,i].
#[derive(Clone, Debug, PartialEq)]
pub struct LinearBackwardInput;

/// Inputs: x [N, I], dy [N, O]. Output: dw [O, I], dw[o,i] = sum over n of dy[n,o] * x[n,i].
#[derive(Clone, Debug, PartialEq)]
pub struct LinearBackwardWeight;
