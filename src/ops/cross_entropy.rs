//! Cross entropy of logits against class labels (log-softmax inside, maximum subtracted), with label smoothing.

/// The label of a row that takes no part: it adds nothing to the loss, its gradient is 0, and the mean is over the others.
pub const IGNORE: u32 = u32::MAX;

/// loss = mean over rows with a label of (1-s) * -logp[label] + s * mean over classes of -logp. With no labelled row, 0.
/// Inputs: logits [N, classes], labels u32 [N] (below `classes`, or [`IGNORE`]). Output: loss [1].
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropy {
    /// s in [0, 1).
    pub label_smoothing: f32,
}

/// Gradient of [`CrossEntropy`] to the logits. Inputs: logits [N, classes], labels u32 [N], dloss [1]. Output: dlogits:
/// dloss / rows * (softmax - (1-s) * onehot - s / classes).
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropyBackward {
    /// s in [0, 1).
    pub label_smoothing: f32,
}
