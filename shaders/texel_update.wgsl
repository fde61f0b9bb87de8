// As linear_update.wgsl, for Vulkan run by the processor: all that is read comes from texels.
//
//   a: dy [N][O / 4]   b: x [N][I / 4]   w, m, v, and old, texels of what these held before: [O][I / 4]

//!include optimizer_step
//!include texel
//!include within

struct Adam {
    // Rows of the batch; outputs; quads of inputs.
    rows: u32,
    outputs: u32,
    inputs: u32,
    // First vec4 of w, m and v, and texels from one to the next of what they held before.
    w_first: u32,
    old_step: u32,
    // The optimizer's.
    lr_scale: f32,
    weight_decay: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    epsilon: f32,
}
@group(0) @binding(0) var<uniform> adam: Adam;

struct Sgd {
    // Rows of the batch; outputs; quads of inputs.
    rows: u32,
    outputs: u32,
    inputs: u32,
    // First vec4 of w and v, and texels from one to the next of what they held before.
    w_first: u32,
    old_step: u32,
    // The optimizer's.
    lr_scale: f32,
    weight_decay: f32,
    momentum: f32,
}
@group(0) @binding(8) var<uniform> sgd: Sgd;

@group(0) @binding(1) var a: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var b: texture_storage_2d<rgba32float, read>;
@group(0) @binding(3) var<storage, read> schedule: array<vec4f>; // lr, 1 - beta1^t, 1 - beta2^t
@group(0) @binding(4) var<storage, read_write> w: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> v: array<vec4f>;
@group(0) @binding(7) var old: texture_storage_2d<rgba32float, read>;

fn old_at(i: u32) -> vec4f {
    return textureLoad(old, texel(i));
}

fn adam_rule() -> AdamRule {
    return AdamRule(adam.beta1, adam.beta2, adam.one_minus_beta1, adam.one_minus_beta2, adam.epsilon,
                    adam.weight_decay, schedule[0].x * adam.lr_scale, schedule[0].y, schedule[0].z);
}

fn sgd_rule() -> SgdRule {
    return SgdRule(sgd.momentum, sgd.weight_decay, schedule[0].x * sgd.lr_scale);
}

fn adam_at(i: u32, g: vec4f, rule: AdamRule) {
    let before = AdamState(old_at(i), old_at(i + adam.old_step), old_at(i + 2u * adam.old_step));
    let stepped = adam_step(before, g, rule);
    w[adam.w_first + i] = stepped.w;
    m[adam.w_first + i] = stepped.m;
    v[adam.w_first + i] = stepped.v;
}

fn sgd_at(i: u32, g: vec4f, rule: SgdRule) {
    let stepped = sgd_step(SgdState(old_at(i), old_at(i + sgd.old_step)), g, rule);
    w[sgd.w_first + i] = stepped.w;
    v[sgd.w_first + i] = stepped.v;
}

//# for rule in adam sgd

// Workgroup (x, y): quads of inputs 32x.., of which lane l has l, l + 8, l + 16 and l + 24, and outputs 4y... Of a row it writes
// half a kilobyte, and its neighbour writes on where it ends: the processor brings early what is gone through in order.
@compute @workgroup_size(8)
fn update_$rule(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let input = group.x * 32u + lane;
    let output_quads = ($rule.outputs + 3u) / 4u;
    //# for j in 0..4
    let read$j = within(input + $j * 8u, $rule.inputs);
    //# for i in 0..4
    var sum${i}_$j = vec4f();
    //# end
    //# end
    for (var n = 0u; n < $rule.rows; n++) {
        let dy = textureLoad(a, texel(n * output_quads + group.y));
        //# for j in 0..4
        let x$j = textureLoad(b, texel(n * $rule.inputs + read$j));
        //# for i in 0..4
        sum${i}_$j = fma(vec4f(dy[$i]), x$j, sum${i}_$j);
        //# end
        //# end
    }
    var sums: array<vec4f, 16>;
    //# for i in 0..4
    //# for j in 0..4
    sums[$i * 4 + $j] = sum${i}_$j;
    //# end
    //# end
    let rule = ${rule}_rule();
    let outputs = min(4u, $rule.outputs - group.y * 4u);
    for (var i = 0u; i < outputs * 4u; i++) {
        let at = input + (i % 4u) * 8u;
        if (at < $rule.inputs) {
            ${rule}_at((group.y * 4u + i / 4u) * $rule.inputs + at, sums[i], rule);
        }
    }
}
//# end
