// Softmax and log-softmax of the rows of a matrix: one workgroup per row.
//!include workgroup
//!include nan

override LOG: bool = false;

struct Params {
    rows: u32,
    classes: u32,
    first: u32, // of the rows in each window
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let row = flat_group(group, groups);
    if (row >= params.rows) {
        return;
    }
    let start = params.first + row * params.classes;
    var maximum = -0x1.fffffep+127;
    for (var k = local; k < params.classes; k += LANES) {
        maximum = max(maximum, x[start + k]);
    }
    maximum = workgroup_max(local, maximum);
    var sum = 0.0;
    for (var k = local; k < params.classes; k += LANES) {
        sum += nan_exp(x[start + k] - maximum);
    }
    sum = workgroup_sum(local, sum);
    for (var k = local; k < params.classes; k += LANES) {
        let v = x[start + k] - maximum;
        if (LOG) {
            out[start + k] = v - nan_log(sum);
        } else {
            out[start + k] = nan_exp(v) / sum;
        }
    }
}

// x is the forward result.
@compute @workgroup_size(LANES)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let row = flat_group(group, groups);
    if (row >= params.rows) {
        return;
    }
    let start = params.first + row * params.classes;
    var sum = 0.0;
    for (var k = local; k < params.classes; k += LANES) {
        if (LOG) {
            sum += dy[start + k];
        } else {
            sum += dy[start + k] * x[start + k];
        }
    }
    sum = workgroup_sum(local, sum);
    for (var k = local; k < params.classes; k += LANES) {
        if (LOG) {
            out[start + k] = dy[start + k] - nan_exp(x[start + k]) * sum;
        } else {
            out[start + k] = x[start + k] * (dy[start + k] - sum);
        }
    }
}
