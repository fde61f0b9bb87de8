// Cross entropy of logits [rows, classes] against labels.
//!include workgroup
//!include nan

override WEIGHTED: bool = false; // whether the rows have weights

// The label of a row that takes no part.
const IGNORE: u32 = 0xffffffffu;

struct Params {
    rows: u32,
    classes: u32,
    logits_first: u32,
    labels_first: u32,
    out_first: u32,
    smoothing: f32,
    weights_first: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read> dloss: array<f32>;
@group(0) @binding(4) var<storage, read> labelled: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(8) var<storage, read> weights: array<f32>;

fn weight(row: u32) -> f32 {
    if (WEIGHTED) {
        return weights[params.weights_first + row];
    }
    return 1.0;
}

// (maximum, sum of exp(x - maximum)) of a row.
fn row_statistics(start: u32, local: u32) -> vec2f {
    var maximum = -0x1.fffffep+127;
    for (var k = local; k < params.classes; k += LANES) {
        maximum = max(maximum, logits[start + k]);
    }
    maximum = workgroup_max(local, maximum);
    var sum = 0.0;
    for (var k = local; k < params.classes; k += LANES) {
        sum += nan_exp(logits[start + k] - maximum);
    }
    return vec2f(maximum, workgroup_sum(local, sum));
}

// out[row] = w * ((1-s) * -logp[label] + s * the mean over classes of -logp), 0 without a label; one workgroup per row.
@compute @workgroup_size(LANES)
fn row_losses(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) local: u32) {
    let row = flat_group(group, groups);
    if (row >= params.rows) {
        return;
    }
    let start = params.logits_first + row * params.classes;
    let statistics = row_statistics(start, local);
    let normaliser = nan_log(statistics.y);
    var sum = 0.0;
    for (var k = local; k < params.classes; k += LANES) {
        sum += (normaliser - (logits[start + k] - statistics.x)) / f32(params.classes);
    }
    sum = workgroup_sum(local, sum);
    if (leads(local)) {
        let label = labels[params.labels_first + row];
        var loss = 0.0;
        if (label != IGNORE) {
            // A label beyond the classes is a caller's mistake: NaN, so that the step is seen to fail.
            var own = bitcast<f32>(label | 0x7fc00000u);
            if (label < params.classes) {
                own = normaliser - (logits[start + label] - statistics.x);
            }
            loss = (1.0 - params.smoothing) * own;
            // Without smoothing, an infinite logit of another class does no harm: 0 times infinity would.
            if (params.smoothing > 0.0) {
                loss += params.smoothing * sum;
            }
        }
        out[params.out_first + row] = weight(row) * loss;
    }
}

struct Totals {
    rows: u32,
}
@group(0) @binding(6) var<uniform> totals: Totals;
@group(0) @binding(7) var<storage, read> losses: array<f32>;

fn count_labelled(local: u32) -> f32 {
    var count = 0.0;
    for (var row = local; row < totals.rows; row += LANES) {
        count += select(0.0, 1.0, labels[row] != IGNORE);
    }
    return workgroup_sum(local, count);
}

// out[0] = the number of rows with a label; one workgroup.
@compute @workgroup_size(LANES)
fn count(@builtin(local_invocation_index) local: u32) {
    let count = count_labelled(local);
    if (leads(local)) {
        out[0] = count;
    }
}

// out[0] = the mean of the losses over the rows with a label; one workgroup.
@compute @workgroup_size(LANES)
fn mean(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var row = local; row < totals.rows; row += LANES) {
        sum += losses[row];
    }
    sum = workgroup_sum(local, sum);
    let count = count_labelled(local);
    if (leads(local)) {
        out[0] = sum / max(count, 1.0);
    }
}

// out = dloss / labelled rows * w * (softmax - (1-s) * onehot - s / classes); one workgroup per row.
@compute @workgroup_size(LANES)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let row = flat_group(group, groups);
    if (row >= params.rows) {
        return;
    }
    let start = params.logits_first + row * params.classes;
    let result = params.out_first + row * params.classes;
    let statistics = row_statistics(start, local);
    let label = labels[params.labels_first + row];
    let takes_part = label != IGNORE;
    let factor = dloss[0] / max(labelled[0], 1.0) * weight(row);
    for (var k = local; k < params.classes; k += LANES) {
        let probability = nan_exp(logits[start + k] - statistics.x) / statistics.y;
        let goal = params.smoothing / f32(params.classes) + select(0.0, 1.0 - params.smoothing, k == label);
        out[result + k] = select(0.0, factor * (probability - goal), takes_part);
    }
}
