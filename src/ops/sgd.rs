//! Stochastic gradient descent with momentum.

/// In place on w and v. Inputs: w, g, v (one shape), schedule f32 [4] = [lr, 1-beta1^t, 1-beta2^t, 0]. Outputs: w, v.
///
/// `paper` (Krizhevsky 2012, section 5): v <- momentum*v - weight_decay*lr*w - lr*g; w <- w + v.
/// Otherwise as PyTorch: d = g + weight_decay*w; v <- momentum*v + d; w <- w - lr*(nesterov ? d + momentum*v : v).
/// lr is the schedule's times `lr_scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sgd {
    /// 0 for plain SGD.
    pub momentum: f32,
    /// L2 coefficient.
    pub weight_decay: f32,
    /// Nesterov's momentum (not with `paper`).
    pub nesterov: bool,
    /// The paper's form, whose velocity holds the learning rate.
    pub paper: bool,
    /// The parameter's own factor of the learning rate (Caffe: 2 for biases).
    pub lr_scale: f32,
}
