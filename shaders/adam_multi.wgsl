// Adam and AdamW on several parameters, in place: those of a row of workgroups each.
//!include elements
//!include optimizer_step

struct Params {
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    epsilon: f32,
    //# for n in 0..6
    count$n: u32,
    weight_decay$n: f32,
    lr_scale$n: f32,
    //# end
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> schedule: array<vec4f>; // lr, 1 - beta1^t, 1 - beta2^t
//# for n in 0..6
@group(0) @binding(1$n) var<storage, read> g$n: array<vec4f>;
@group(0) @binding(2$n) var<storage, read_write> w$n: array<vec4f>;
@group(0) @binding(3$n) var<storage, read_write> m$n: array<vec4f>;
@group(0) @binding(4$n) var<storage, read_write> v$n: array<vec4f>;
//# end

@compute @workgroup_size(LANES)
fn update(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
    let i = group.x * LANES + local;
    //# for n in 0..6
    if (group.y == ${n}u && 4u * i < params.count$n) {
        let rule = AdamRule(params.beta1, params.beta2, params.one_minus_beta1, params.one_minus_beta2, params.epsilon,
                            params.weight_decay$n, schedule[0].x * params.lr_scale$n, schedule[0].y, schedule[0].z);
        let stepped = adam_step(AdamState(w$n[i], m$n[i], v$n[i]), g$n[i], rule);
        w$n[i] = stepped.w;
        m$n[i] = stepped.m;
        v$n[i] = stepped.v;
    }
    //# end
}
