// ReLU, sigmoid, tanh, leaky ReLU and GELU, element by element.
//!include elements
//!include nan

override KIND: u32 = 0u; // 0 ReLU, 1 sigmoid, 2 tanh, 3 leaky ReLU, 4 GELU

struct Params { count: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<storage, read> forward_y: array<vec4f>;
@group(0) @binding(4) var<storage, read> dy: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> dx: array<vec4f>;

// Arguments are clamped where the result no longer changes: exp of more than 88 is beyond f32.
fn sigmoid(v: vec4f) -> vec4f {
    return 1.0 / (1.0 + exp(-clamp(v, vec4f(-87.0), vec4f(87.0))));
}

// WGSL's tanh may lose all precision near 0, where this takes the first five terms of the Taylor series, and overflow far from it.
fn accurate_tanh(v: vec4f) -> vec4f {
    let s = v * v;
    let near = v * (1.0 + s * (-0.33333334 + s * (0.13333334 + s * (-0.05396825 + s * 0.021869488))));
    let far = sign(v) * (1.0 - 2.0 / (exp(2.0 * min(abs(v), vec4f(15.0))) + 1.0));
    return select(far, near, abs(v) < vec4f(0.3));
}

fn leaky(v: vec4f, slope_of: vec4f) -> vec4f {
    return select(0.01 * v, v, slope_of > vec4f(0.0));
}

// The probability that a normal number is below v: 0.5 (1 + erf(v / sqrt(2))), erf by Eigen's rational function; beyond 3.92 it is
// 1 to the last digit.
fn below(v: vec4f) -> vec4f {
    let t = clamp(v * 0.70710677, vec4f(-3.92), vec4f(3.92));
    let s = t * t;
    var p = vec4f(-2.7261423e-10);
    p = p * s + 2.7706814e-8;
    p = p * s - 2.101024e-6;
    p = p * s - 5.6925064e-5;
    p = p * s - 7.3499063e-4;
    p = p * s - 2.9545998e-3;
    p = p * s - 1.6096033e-2;
    var q = vec4f(-1.4566072e-5);
    q = q * s - 2.1337406e-4;
    q = q * s - 1.682827e-3;
    q = q * s - 7.373329e-3;
    q = q * s - 1.4264739e-2;
    let erf = select(sign(t), t * p / q, abs(t) < vec4f(3.92));
    return 0.5 * (1.0 + erf);
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i >= params.count) {
        return;
    }
    let v = x[i];
    var result = max(v, vec4f(0.0));
    if (KIND == 1u) {
        result = sigmoid(v);
    } else if (KIND == 2u) {
        result = accurate_tanh(v);
    } else if (KIND == 3u) {
        result = leaky(v, v);
    } else if (KIND == 4u) {
        result = v * below(v);
    }
    y[i] = keep_nan(result, v);
}

@compute @workgroup_size(LANES)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i >= params.count) {
        return;
    }
    let v = forward_y[i];
    let d = dy[i];
    var result = select(vec4f(0.0), d, v > vec4f(0.0));
    if (KIND == 1u) {
        result = d * v * (1.0 - v);
    } else if (KIND == 2u) {
        result = d * (1.0 - v * v);
    } else if (KIND == 3u) {
        result = leaky(d, v);
    } else if (KIND == 4u) {
        // Of the input: with v times the density, 1 / sqrt(2 pi) exp(-v^2 / 2), which is 0 from a square of 240 on.
        result = d * keep_nan(below(v) + v * 0.3989423 * exp(-0.5 * min(v * v, vec4f(240.0))), v);
    }
    dx[i] = result;
}
