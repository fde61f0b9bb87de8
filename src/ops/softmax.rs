//! Softmax and log-softmax over the last dimension of a matrix, and their gradients. The row's maximum is subtracted first.

/// Input: x [N, classes]. Output: y, as x: exp(x - lse(x)), or x - lse(x) with `log`.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// Log-softmax.
    pub log: bool,
}

/// Gradient of [`Softmax`] from its output. Inputs: y, dy [N, classes]. Output: dx.
/// Softmax: y * (dy - sum(dy * y)); log-softmax: dy - exp(y) * sum(dy).
#[derive(Clone, Debug, PartialEq)]
pub struct SoftmaxBackward {
    /// Log-softmax.
    pub log: bool,
}
