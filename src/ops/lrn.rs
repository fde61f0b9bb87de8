//! Local response normalisation across channels (Krizhevsky 2012, section 3.3).

/// b[c] = a[c] / (k + alpha * sum of a[j]^2 for j in max(0, c-n/2) ..= min(C-1, c+(n-1)/2... see `size`))^beta.
/// Input: a [N, C, H, W]. Output: b, as a. alpha is the paper's: it is NOT divided by `size` (PyTorch, Caffe, ONNX divide).
#[derive(Clone, Debug, PartialEq)]
pub struct Lrn {
    /// Channels in the window, centred; odd: c - size/2 ..= c + size/2, clipped at the first and last channel.
    pub size: usize,
    /// Paper: 1e-4.
    pub alpha: f32,
    /// Paper: 0.75.
    pub beta: f32,
    /// Paper: 2.
    pub k: f32,
}

/// Gradient of [`Lrn`]. Inputs: a, db, both [N, C, H, W]. Output: da.
/// da[c] = db[c] * s[c]^-beta - 2*alpha*beta * a[c] * sum over j near c of db[j]*a[j]*s[j]^(-beta-1), s the bracket above.
#[derive(Clone, Debug, PartialEq)]
pub struct LrnBackward {
    /// The forward op.
    pub lrn: Lrn,
}
