// Stochastic gradient descent with momentum on several parameters, in place: those of a row of workgroups each.
//!include elements
//!include optimizer_step

struct Params {
    momentum: f32,
    //# for n in 0..6
    count$n: u32,
    weight_decay$n: f32,
    lr_scale$n: f32,
    //# end
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> schedule: array<f32>;
//# for n in 0..6
@group(0) @binding(1$n) var<storage, read> g$n: array<vec4f>;
@group(0) @binding(2$n) var<storage, read_write> w$n: array<vec4f>;
@group(0) @binding(3$n) var<storage, read_write> v$n: array<vec4f>;
//# end

@compute @workgroup_size(LANES)
fn update(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
    let i = group.x * LANES + local;
    //# for n in 0..6
    if (group.y == ${n}u && 4u * i < params.count$n) {
        let rule = SgdRule(params.momentum, params.weight_decay$n, schedule[0] * params.lr_scale$n);
        let stepped = sgd_step(SgdState(w$n[i], v$n[i]), g$n[i], rule);
        w$n[i] = stepped.w;
        v$n[i] = stepped.v;
    }
    //# end
}
