//! Element-wise arithmetic on f32 tensors of one shape.

use crate::tensor::Shape;

/// Inputs: a, b. Output: a + b.
#[derive(Clone, Debug, PartialEq)]
pub struct Add;

/// Inputs: a, b. Output: a * b.
#[derive(Clone, Debug, PartialEq)]
pub struct Mul;

/// Input: x. Output: x * factor.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// The constant factor.
    pub factor: f32,
}

/// No input. Output: a tensor filled with `value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fill {
    /// The output's shape.
    pub shape: Shape,
    /// Every element.
    pub value: f32,
}
