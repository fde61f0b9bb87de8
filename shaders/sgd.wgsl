// Stochastic gradient descent with momentum, in place.
//!include elements

override PAPER: bool = false;
override NESTEROV: bool = false;

struct Params {
    count: u32,
    momentum: f32,
    weight_decay: f32,
    lr_scale: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> g: array<vec4f>;
@group(0) @binding(2) var<storage, read> schedule: array<f32>;
@group(0) @binding(3) var<storage, read_write> w: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> v: array<vec4f>;

@compute @workgroup_size(LANES)
fn update(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i >= params.count) {
        return;
    }
    let lr = schedule[0] * params.lr_scale;
    let old_w = w[i];
    let old_v = v[i];
    var new_w: vec4f;
    var new_v: vec4f;
    if (PAPER) {
        new_v = params.momentum * old_v - params.weight_decay * lr * old_w - lr * g[i];
        new_w = old_w + new_v;
    } else {
        let d = g[i] + params.weight_decay * old_w;
        new_v = params.momentum * old_v + d;
        new_w = old_w - lr * select(new_v, d + params.momentum * new_v, NESTEROV);
    }
    w[i] = new_w;
    v[i] = new_v;
}
