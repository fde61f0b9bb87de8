// The gradient of a fully connected layer's weight, and at once the optimizer's step on the weight: the gradient stays in
// registers. For rows of whole vec4s; extents along I count those.
//
//   x: [N, I]   dy: [N, O]   w, m, v: [O, I]

//!include optimizer_step
//!include within

struct Adam {
    // Rows of the batch, outputs and inputs in this dispatch.
    rows: u32,
    outputs: u32,
    inputs: u32,
    // First elements, and from a row of dy to the next.
    x_first: u32,
    w_first: u32,
    dy_first: u32,
    dy_row: u32,
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
    // Rows of the batch, outputs and inputs in this dispatch.
    rows: u32,
    outputs: u32,
    inputs: u32,
    // First elements, and from a row of dy to the next.
    x_first: u32,
    w_first: u32,
    dy_first: u32,
    dy_row: u32,
    // The optimizer's.
    lr_scale: f32,
    weight_decay: f32,
    momentum: f32,
}
@group(0) @binding(7) var<uniform> sgd: Sgd;

@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read> schedule: array<vec4f>; // lr, 1 - beta1^t, 1 - beta2^t
@group(0) @binding(4) var<storage, read_write> w: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> v: array<vec4f>;

fn adam_at(i: u32, g: vec4f) {
    let rule = AdamRule(adam.beta1, adam.beta2, adam.one_minus_beta1, adam.one_minus_beta2, adam.epsilon,
                        adam.weight_decay, schedule[0].x * adam.lr_scale, schedule[0].y, schedule[0].z);
    let stepped = adam_step(AdamState(w[i], m[i], v[i]), g, rule);
    w[i] = stepped.w;
    m[i] = stepped.m;
    v[i] = stepped.v;
}

fn sgd_at(i: u32, g: vec4f) {
    let rule = SgdRule(sgd.momentum, sgd.weight_decay, schedule[0].x * sgd.lr_scale);
    let stepped = sgd_step(SgdState(w[i], v[i]), g, rule);
    w[i] = stepped.w;
    v[i] = stepped.v;
}

//# for rule in adam sgd

// Workgroup (x, y): inputs 128x.., outputs 8y..; lane l has inputs l and l + 64.
@compute @workgroup_size(64)
fn update_$rule(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i0 = group.x * 128 + lane;
    let i1 = i0 + 64;
    if (i0 >= $rule.inputs) {
        return;
    }
    let read1 = within(i1, $rule.inputs);
    let output = group.y * 8;
    //# for o in 0..8
    let dy$o = $rule.dy_first + within(output + $o, $rule.outputs);
    var sum${o}_0 = vec4f();
    var sum${o}_1 = vec4f();
    //# end
    for (var n = 0u; n < $rule.rows; n++) {
        let row = $rule.x_first + n * $rule.inputs;
        let x0 = x[row + i0];
        let x1 = x[row + read1];
        //# for o in 0..8
        {
            let d = dy[dy$o + n * $rule.dy_row];
            sum${o}_0 += d * x0;
            sum${o}_1 += d * x1;
        }
        //# end
    }
    //# for o in 0..8
    if (output + $o < $rule.outputs) {
        let at = $rule.w_first + (output + $o) * $rule.inputs;
        ${rule}_at(at + i0, sum${o}_0);
        if (i1 < $rule.inputs) {
            ${rule}_at(at + i1, sum${o}_1);
        }
    }
    //# end
}
//# end
