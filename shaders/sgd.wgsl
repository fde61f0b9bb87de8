// Stochastic gradient descent with momentum, in place.
//!include elements
//!include optimizer_step

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
    let rule = SgdRule(params.momentum, params.weight_decay, schedule[0] * params.lr_scale);
    let stepped = sgd_step(SgdState(w[i], v[i]), g[i], rule);
    w[i] = stepped.w;
    v[i] = stepped.v;
}
