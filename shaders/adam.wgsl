// Adam and AdamW, in place.
//!include elements
//!include optimizer_step

struct Params {
    count: u32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    epsilon: f32,
    weight_decay: f32,
    lr_scale: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> g: array<vec4f>;
@group(0) @binding(2) var<storage, read> schedule: array<vec4f>; // lr, 1 - beta1^t, 1 - beta2^t
@group(0) @binding(3) var<storage, read_write> w: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> v: array<vec4f>;

@compute @workgroup_size(LANES)
fn update(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i >= params.count) {
        return;
    }
    let rule = AdamRule(params.beta1, params.beta2, params.one_minus_beta1, params.one_minus_beta2, params.epsilon,
                        params.weight_decay, schedule[0].x * params.lr_scale, schedule[0].y, schedule[0].z);
    let stepped = adam_step(AdamState(w[i], m[i], v[i]), g[i], rule);
    w[i] = stepped.w;
    m[i] = stepped.m;
    v[i] = stepped.v;
}
