// The optimizers' steps on four elements, for the kernels that update parameters.

override DECOUPLED: bool = false;

struct AdamRule {
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32, // of the host's f64: in f32 it would be short of digits
    one_minus_beta2: f32,
    epsilon: f32,
    weight_decay: f32,
    lr: f32,
    // 1 - beta1^t, 1 - beta2^t
    correction1: f32,
    correction2: f32,
}

struct AdamState {
    w: vec4f,
    m: vec4f,
    v: vec4f,
}

// Adam, or AdamW where the decay is DECOUPLED.
fn adam_step(old: AdamState, g: vec4f, rule: AdamRule) -> AdamState {
    var decayed = old.w;
    var d = g;
    if (DECOUPLED) {
        decayed -= rule.lr * rule.weight_decay * old.w;
    } else {
        d += rule.weight_decay * old.w;
    }
    let m = rule.beta1 * old.m + rule.one_minus_beta1 * d;
    let v = rule.beta2 * old.v + rule.one_minus_beta2 * d * d;
    let w = decayed - rule.lr * (m / rule.correction1) / (sqrt(v / rule.correction2) + rule.epsilon);
    return AdamState(w, m, v);
}

override PAPER: bool = false;
override NESTEROV: bool = false;

struct SgdRule {
    momentum: f32,
    weight_decay: f32,
    lr: f32,
}

struct SgdState {
    w: vec4f,
    v: vec4f,
}

// SGD with momentum, in the PAPER's form or PyTorch's.
fn sgd_step(old: SgdState, g: vec4f, rule: SgdRule) -> SgdState {
    if (PAPER) {
        let v = rule.momentum * old.v - rule.weight_decay * rule.lr * old.w - rule.lr * g;
        return SgdState(old.w + v, v);
    }
    let d = g + rule.weight_decay * old.w;
    let v = rule.momentum * old.v + d;
    return SgdState(old.w - rule.lr * select(v, d + rule.momentum * v, NESTEROV), v);
}
