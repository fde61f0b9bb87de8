//! Adds a bias per channel, and its gradient.

/// y[n,c,...] = x[n,c,...] + b[c]. Inputs: x [N, C, ...] (2 or 4 dimensions), b [C]. Output: y, as x.
#[derive(Clone, Debug, PartialEq)]
pub struct Bias;

/// Gradient of [`Bias`] to b: the sum of dy over all but the channel. Input: dy [N, C, ...]. Output: db [C].
#[derive(Clone, Debug, PartialEq)]
pub struct BiasBackward;
