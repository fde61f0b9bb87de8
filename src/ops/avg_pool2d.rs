//! Average-pooling and its gradient.

/// y[n,c,p,q] = the mean over the window. Input: x [N, C, H, W]. Output: y [N, C, P, Q].
#[derive(Clone, Debug, PartialEq)]
pub struct AvgPool2d {
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Zeros on each side; at most half the kernel.
    pub padding: [usize; 2],
    /// Rounds the output size up instead of down; a window that would start in the far padding is dropped (PyTorch's rule).
    pub ceil_mode: bool,
    /// Whether padding counts in the divisor (PyTorch's default: true; what reaches beyond the padding never counts).
    pub count_include_pad: bool,
}

/// Gradient of [`AvgPool2d`]: each dy is spread evenly over its window. Input: dy [N, C, P, Q]. Output: dx [N, C, H, W].
#[derive(Clone, Debug, PartialEq)]
pub struct AvgPool2dBackward {
    /// The forward op.
    pub pool: AvgPool2d,
    /// H and W of the forward input.
    pub input: [usize; 2],
}
