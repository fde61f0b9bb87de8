// ReLU, sigmoid and tanh, element by element.
//!include elements
//!include nan

override KIND: u32 = 0u; // 0 ReLU, 1 sigmoid, 2 tanh

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
    }
    dx[i] = result;
}
