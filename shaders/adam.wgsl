// Adam and AdamW, in place.
//!include elements

override DECOUPLED: bool = false;

struct Params {
    count: u32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32, // of the host's f64: in f32 it would be short of digits
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
    let lr = schedule[0].x * params.lr_scale;
    let old_w = w[i];
    var decayed = old_w;
    var d = g[i];
    if (DECOUPLED) {
        decayed -= lr * params.weight_decay * old_w;
    } else {
        d += params.weight_decay * old_w;
    }
    let new_m = params.beta1 * m[i] + params.one_minus_beta1 * d;
    let new_v = params.beta2 * v[i] + params.one_minus_beta2 * d * d;
    let new_w = decayed - lr * (new_m / schedule[0].y) / (sqrt(new_v / schedule[0].z) + params.epsilon);
    w[i] = new_w;
    m[i] = new_m;
    v[i] = new_v;
}
