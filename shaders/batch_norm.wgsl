// Batch normalisation of each channel of x [N, C, inner], and its gradient. A variance is a second sum, of distances from the mean:
// f32 has not the digits for a difference of the squares' mean and the mean's square.
//!include elements
//!include workgroup
//!include nan

// What is summed: the distances from the mean, else g; and its product with the distance.
override CENTRED: bool = true;

struct Planes {
    x_first: u32,
    g_first: u32,
    sums_first: u32,
    rows: u32,          // pictures in the windows
    rows_per_split: u32,
    splits: u32,
    channels: u32,
    inner: u32,
}
@group(0) @binding(0) var<uniform> planes: Planes;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> g: array<f32>;
@group(0) @binding(3) var<storage, read> mean: array<f32>;
@group(0) @binding(4) var<storage, read_write> sums: array<f32>;
@group(0) @binding(5) var<storage, read_write> products: array<f32>;

// An element of a channel, by its place in the windows: what is summed, and its product with the distance.
fn terms(place: u32, channel_mean: f32) -> vec2f {
    let distance = x[planes.x_first + place] - channel_mean;
    if (CENTRED) {
        return vec2f(distance, distance * distance);
    }
    let v = g[planes.g_first + place];
    return vec2f(v, v * distance);
}

// sums[split, c] and products[split, c] over the split's pictures; one workgroup per (split, c).
@compute @workgroup_size(LANES)
fn plane_sums(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) local: u32) {
    let index = flat_group(group, groups);
    if (index >= planes.splits * planes.channels) {
        return;
    }
    let channel = index % planes.channels;
    let first = index / planes.channels * planes.rows_per_split;
    let end = min(first + planes.rows_per_split, planes.rows);
    let channel_mean = mean[channel];
    var sum = vec2f(0.0);
    for (var n = first; n < end; n += 1u) {
        let start = (n * planes.channels + channel) * planes.inner;
        for (var k = local; k < planes.inner; k += LANES) {
            sum += terms(start + k, channel_mean);
        }
    }
    let total = workgroup_sum(local, sum.x);
    let product = workgroup_sum(local, sum.y);
    if (leads(local)) {
        sums[planes.sums_first + index] = total;
        products[planes.sums_first + index] = product;
    }
}

const RUN: u32 = 32u;

// The same by one invocation per (split, c): for small planes, and for Vulkan run by the processor, where barriers are dear.
@compute @workgroup_size(LANES)
fn channel_sums(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) local: u32) {
    let index = flat_thread(group, groups, local);
    if (index >= planes.splits * planes.channels) {
        return;
    }
    let channel = index % planes.channels;
    let first = index / planes.channels * planes.rows_per_split;
    let end = min(first + planes.rows_per_split, planes.rows);
    let channel_mean = mean[channel];
    var sum = vec2f(0.0);
    for (var n = first; n < end; n += 1u) {
        let start = (n * planes.channels + channel) * planes.inner;
        // In runs, so that fewer roundings add up.
        for (var k = 0u; k < planes.inner; k += RUN) {
            let run_end = min(k + RUN, planes.inner);
            var run = vec2f(0.0);
            for (var i = k; i < run_end; i += 1u) {
                run += terms(start + i, channel_mean);
            }
            sum += run;
        }
    }
    sums[planes.sums_first + index] = sum.x;
    products[planes.sums_first + index] = sum.y;
}

struct Channels {
    channels: u32,
    share: f32, // 1 / elements of a channel
    epsilon: f32,
}
@group(0) @binding(6) var<uniform> per: Channels;
@group(0) @binding(7) var<storage, read> channel_sum: array<f32>;
@group(0) @binding(8) var<storage, read> channel_product: array<f32>;
@group(0) @binding(9) var<storage, read> weight: array<f32>;
@group(0) @binding(10) var<storage, read> given_variance: array<f32>;
@group(0) @binding(11) var<storage, read_write> mean_out: array<f32>;
@group(0) @binding(12) var<storage, read_write> variance: array<f32>;
@group(0) @binding(13) var<storage, read_write> factor_out: array<f32>;
@group(0) @binding(14) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(15) var<storage, read_write> slope_out: array<f32>;

fn inverse_root(v: f32) -> f32 {
    return 1.0 / sqrt(v + per.epsilon);
}

// From the sums of the distances and of their squares: the variance, and what the mean was off by. One invocation per channel.
@compute @workgroup_size(LANES)
fn statistics(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) local: u32) {
    let c = flat_thread(group, groups, local);
    if (c >= per.channels) {
        return;
    }
    let shift = channel_sum[c] * per.share;
    let v = channel_product[c] * per.share - shift * shift;
    // Next to an infinity every distance is none, but the mean is that infinity.
    mean_out[c] += select(shift, 0.0, is_nan(shift));
    variance[c] = select(max(v, 0.0), v, is_nan(v));
    factor_out[c] = weight[c] * inverse_root(variance[c]);
}

// What x - mean is multiplied by, from a variance that is given.
@compute @workgroup_size(LANES)
fn factors(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let c = flat_thread(group, groups, local);
    if (c < per.channels) {
        factor_out[c] = weight[c] * inverse_root(given_variance[c]);
    }
}

// From the sums of dy * (x - mean): the weight's gradient, and the factors of the input's.
@compute @workgroup_size(LANES)
fn slopes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let c = flat_thread(group, groups, local);
    if (c >= per.channels) {
        return;
    }
    let r = inverse_root(given_variance[c]);
    let d = channel_product[c] * r;
    dweight[c] = d;
    slope_out[c] = d * r * per.share;
    factor_out[c] = weight[c] * r;
}

struct Elements {
    count: u32,
    first: u32, // place of the windows' first element in x
    channels: u32,
    inner: u32,
    share: f32,
}
@group(0) @binding(16) var<uniform> elements: Elements;
@group(0) @binding(17) var<storage, read> x4: array<vec4f>;
@group(0) @binding(18) var<storage, read> dy4: array<vec4f>;
@group(0) @binding(19) var<storage, read> factor: array<f32>;
@group(0) @binding(20) var<storage, read> bias: array<f32>;
@group(0) @binding(21) var<storage, read> slope: array<f32>;
@group(0) @binding(22) var<storage, read_write> out: array<vec4f>;

// The channels of four neighbours: often one, but they may lie in up to four.
fn channels_of(i: u32) -> vec4u {
    let index = vec4u(elements.first + 4u * i) + vec4u(0u, 1u, 2u, 3u);
    return index / elements.inner % elements.channels;
}

// y = (x - mean) * factor + bias
@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i >= elements.count) {
        return;
    }
    let c = channels_of(i);
    let m = vec4f(mean[c.x], mean[c.y], mean[c.z], mean[c.w]);
    let f = vec4f(factor[c.x], factor[c.y], factor[c.z], factor[c.w]);
    let b = vec4f(bias[c.x], bias[c.y], bias[c.z], bias[c.w]);
    out[i] = (x4[i] - m) * f + b;
}

// dx = (dy - dbias / n - (x - mean) * slope) * factor; `bias` is its gradient.
@compute @workgroup_size(LANES)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i >= elements.count) {
        return;
    }
    let c = channels_of(i);
    let m = vec4f(mean[c.x], mean[c.y], mean[c.z], mean[c.w]);
    let f = vec4f(factor[c.x], factor[c.y], factor[c.z], factor[c.w]);
    let b = vec4f(bias[c.x], bias[c.y], bias[c.z], bias[c.w]);
    let s = vec4f(slope[c.x], slope[c.y], slope[c.z], slope[c.w]);
    out[i] = (dy4[i] - b * elements.share - (x4[i] - m) * s) * f;
}
