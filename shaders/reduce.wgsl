// Sum of all elements, in passes, and the spreading of one number.
//!include elements
//!include workgroup

struct Params {
    count: u32,
    partials_first: u32,
    factor: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;

// One workgroup sums 16,384 elements and multiplies by the factor.
@compute @workgroup_size(LANES)
fn sum(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
    let first = group.x * 16384u;
    let end = min(first + 16384u, params.count);
    var sum = 0.0;
    for (var i = first + local; i < end; i += LANES) {
        sum += x[i];
    }
    let total = workgroup_sum(local, sum);
    if (leads(local)) {
        partials[params.partials_first + group.x] = total * params.factor;
    }
}

struct Spread { count: u32 }
@group(0) @binding(3) var<uniform> spread: Spread;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

// y = x[0]
@compute @workgroup_size(LANES)
fn broadcast(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i >= spread.count) {
        return;
    }
    y[i] = vec4f(x[0]);
}
