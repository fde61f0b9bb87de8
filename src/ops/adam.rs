//! Adam (Kingma, Ba 2014) and AdamW (Loshchilov, Hutter 2017).

/// In place on w, m, v. Inputs: w, g, m, v (one shape), schedule f32 [4] = [lr, 1-beta1^t, 1-beta2^t, 0] (t from 1; the host
/// computes the powers in f64). Outputs: w, m, v.
///
/// d = g (+ weight_decay*w unless decoupled); m <- beta1*m + (1-beta1)*d; v <- beta2*v + (1-beta2)*d*d;
/// decoupled: w <- w - lr*weight_decay*w first; w <- w - lr * (m/c1) / (sqrt(v/c2) + epsilon), c1, c2 the schedule's. lr is the
/// schedule's times `lr_scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root.
    pub epsilon: f32,
    /// L2 coefficient.
    pub weight_decay: f32,
    /// AdamW: decay apart from the gradient.
    pub decoupled: bool,
    /// The parameter's own factor of the learning rate.
    pub lr_scale: f32,
}
