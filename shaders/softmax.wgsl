// Softmax and log-softmax of the rows of a matrix: one workgroup per row.
//!include workgroup
//!include nan

override LOG: bool = false;

struct Params {
    rows: u32,
    classes: u32,
    in_first: u32,
    dy_first: u32,
    out_first: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let row = flat_group(group, groups);
    if (row >= params.rows) {
        return;
    }
    let start = params.in_first + row * params.classes;
    let result = params.out_first + row * params.classes;
    var maximum = -0x1.fffffep+127;
    for (var k = local; k < params.classes; k += 256u) {
        maximum = max(maximum, x[start + k]);
    }
    maximum = workgroup_max(local, maximum);
    var sum = 0.0;
    for (var k = local; k < params.classes; k += 256u) {
        sum += nan_exp(x[start + k] - maximum);
    }
    sum = workgroup_sum(local, sum);
    for (var k = local; k < params.classes; k += 256u) {
        let v = x[start + k] - maximum;
        if (LOG) {
            out[result + k] = v - nan_log(sum);
        } else {
            out[result + k] = nan_exp(v) / sum;
        }
    }
}

// x is the forward result.
@compute @workgroup_size(256)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let row = flat_group(group, groups);
    if (row >= params.rows) {
        return;
    }
    let y = params.in_first + row * params.classes;
    let d = params.dy_first + row * params.classes;
    let result = params.out_first + row * params.classes;
    var sum = 0.0;
    for (var k = local; k < params.classes; k += 256u) {
        if (LOG) {
            sum += dy[d + k];
        } else {
            sum += dy[d + k] * x[y + k];
        }
    }
    sum = workgroup_sum(local, sum);
    for (var k = local; k < params.classes; k += 256u) {
        if (LOG) {
            out[result + k] = dy[d + k] - nan_exp(x[y + k]) * sum;
        } else {
            out[result + k] = x[y + k] * (dy[d + k] - sum);
        }
    }
}
