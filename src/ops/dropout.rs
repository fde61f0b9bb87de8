//! Dropout with a Philox mask that is recomputed, never stored.

/// When the kept activations are scaled so that training and evaluation agree in expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropoutScaling {
    /// In training by 1 / (1 - rate); evaluation does nothing. Today's standard.
    Inverted,
    /// Not in training; evaluation multiplies by (1 - rate) (the paper; the evaluation graph holds a `Scale`).
    Paper,
}

/// y[i] = keep(i) ? x[i] * scale : 0. Element i (its flat index) is kept when
/// `philox(seed, stream, step).word(i) >= threshold()`. Its gradient is the same op, same stream, on dy.
/// Inputs: x (any f32 shape), counter u32 [4] = [seed low, seed high, step, 0]. Output: y, as x.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping, in [0, 1).
    pub rate: f32,
    /// Random stream, `rng::stream::DROPOUT + n`.
    pub stream: u32,
    /// See [`DropoutScaling`].
    pub scaling: DropoutScaling,
}
