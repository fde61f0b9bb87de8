//! ReLU, sigmoid and tanh, and their gradients.

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationKind {
    /// max(x, 0); its gradient at exactly 0 is 0.
    Relu,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// tanh(x).
    Tanh,
}

/// y = f(x), element by element. Input: x, any f32 shape. Output: y, as x.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// f.
    pub kind: ActivationKind,
}

/// Gradient of [`Activation`], from its output: all three derivatives are functions of y.
/// Inputs: y, dy. Output: dx: dy where y > 0 (ReLU), dy*y*(1-y) (sigmoid), dy*(1-y*y) (tanh).
#[derive(Clone, Debug, PartialEq)]
pub struct ActivationBackward {
    /// f.
    pub kind: ActivationKind,
}
