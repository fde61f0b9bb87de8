//! Max-pooling, overlapping or not, and its gradient.

/// y[n,c,p,q] = the maximum over the window; padding counts as -infinity; NaN wins. Input: x [N, C, H, W]. Output: y [N, C, P, Q].
#[derive(Clone, Debug, PartialEq)]
pub struct MaxPool2d {
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Top and bottom, left and right; at most half the kernel.
    pub padding: [usize; 2],
    /// Rounds the output size up instead of down; a window that would start in the far padding is dropped (PyTorch's rule).
    pub ceil_mode: bool,
}

/// Gradient of [`MaxPool2d`]: each dy goes to its window's first maximum in row-major order. The place is found again from x,
/// not stored. Inputs: x [N, C, H, W], dy [N, C, P, Q]. Output: dx, as x.
#[derive(Clone, Debug, PartialEq)]
pub struct MaxPool2dBackward {
    /// The forward op.
    pub pool: MaxPool2d,
}
