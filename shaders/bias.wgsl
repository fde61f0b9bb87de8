// Bias per channel of x [N, C, inner], and its gradient: sums over N and inner.
//!include elements
//!include workgroup

struct Params {
    count: u32,
    first: u32, // place of the window's first element in x
    channels: u32,
    inner: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

// y = x + bias[channel]
@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i >= params.count) {
        return;
    }
    let index = params.first + 4u * i;
    var channel = index / params.inner;
    var position = index - channel * params.inner;
    channel %= params.channels;
    // Four neighbours may lie in up to four channels.
    var b: vec4f;
    for (var k = 0u; k < 4u; k += 1u) {
        b[k] = bias[channel];
        position += 1u;
        if (position == params.inner) {
            position = 0u;
            channel = select(channel + 1u, 0u, channel + 1u == params.channels);
        }
    }
    let result = x[i] + b;
    y[i] = result;
}

struct Planes {
    dy_first: u32,
    sums_first: u32,
    rows: u32,          // pictures in the window
    rows_per_split: u32,
    splits: u32,
    channels: u32,
    inner: u32,
}
@group(0) @binding(4) var<uniform> planes: Planes;
@group(0) @binding(5) var<storage, read> dy: array<f32>;
@group(0) @binding(6) var<storage, read_write> sums: array<f32>;

// sums[split, c] = the sum of dy[n, c, :] over the split's pictures; one workgroup per (split, c).
@compute @workgroup_size(LANES)
fn plane_sums(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) local: u32) {
    let index = flat_group(group, groups);
    if (index >= planes.splits * planes.channels) {
        return;
    }
    let split = index / planes.channels;
    let channel = index % planes.channels;
    let end = min((split + 1u) * planes.rows_per_split, planes.rows);
    var sum = 0.0;
    for (var n = split * planes.rows_per_split; n < end; n += 1u) {
        let start = planes.dy_first + (n * planes.channels + channel) * planes.inner;
        for (var k = local; k < planes.inner; k += LANES) {
            sum += dy[start + k];
        }
    }
    let total = workgroup_sum(local, sum);
    if (leads(local)) {
        sums[planes.sums_first + index] = total;
    }
}

// The same by one invocation per (split, c), for Vulkan run by the processor, where barriers are dear.
@compute @workgroup_size(LANES)
fn channel_sums(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) local: u32) {
    let index = flat_thread(group, groups, local);
    if (index >= planes.splits * planes.channels) {
        return;
    }
    let split = index / planes.channels;
    let end = min((split + 1u) * planes.rows_per_split, planes.rows);
    var sum = 0.0;
    for (var n = split * planes.rows_per_split; n < end; n += 1u) {
        let start = planes.dy_first + (n * planes.channels + index % planes.channels) * planes.inner;
        for (var k = 0u; k < planes.inner; k += 1u) {
            sum += dy[start + k];
        }
    }
    sums[planes.sums_first + index] = sum;
}

struct Columns {
    dy_first: u32,
    rows: u32,
    columns: u32,
    accumulate: u32, // whether to add to what is there
}
@group(0) @binding(7) var<uniform> columns: Columns;

// sums[c] = the sum over rows of dy[:, c], or that much more; one invocation per column.
@compute @workgroup_size(LANES)
fn column_sums(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) local: u32) {
    let column = flat_thread(group, groups, local);
    if (column >= columns.columns) {
        return;
    }
    var sum = select(0.0, sums[column], columns.accumulate == 1u);
    for (var row = 0u; row < columns.rows; row += 1u) {
        sum += dy[columns.dy_first + row * columns.columns + column];
    }
    sums[column] = sum;
}
