//! A view of the same elements in another shape; `flatten` is this op. Costs nothing: the output shares the input's memory.

use crate::tensor::Shape;

/// Input: x, any. Output: the same elements as `shape`.
#[derive(Clone, Debug, PartialEq)]
pub struct Reshape {
    /// The output's shape; as many elements as the input has.
    pub shape: Shape,
}
