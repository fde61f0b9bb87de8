//! Sum and mean of all elements, and the op that spreads one number over a tensor (each is in the other's gradient).

use crate::tensor::Shape;

/// Which reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceKind {
    /// Sum.
    Sum,
    /// Sum divided by the number of elements.
    Mean,
}

/// Input: x, any f32 shape. Output: [1].
#[derive(Clone, Debug, PartialEq)]
pub struct Reduce {
    /// See [`ReduceKind`].
    pub kind: ReduceKind,
}

/// Input: x [1]. Output: a tensor of `shape`, every element x[0].
#[derive(Clone, Debug, PartialEq)]
pub struct Broadcast {
    /// The output's shape.
    pub shape: Shape,
}
