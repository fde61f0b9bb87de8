// Sum of partial results, always in the same order: the end of a product whose long sums were cut for more parallel work.
//!include grid
//!include epilogue

struct Params {
    // Elements of a part, and from one part to the next.
    count: u32,
    parts: u32,
    y_first: u32,
    // Add to what y holds instead of overwriting it.
    accumulate: u32,
    // Rows and columns of a group, and the channels of its elements, see epilogue.wgsl.
    extent: vec2u,
    bias_channels: vec4u,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partial: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// y[i] (+)= sum over parts of partial[part, i]
@compute @workgroup_size(LANES)
fn sum_parts(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (i >= params.count) {
        return;
    }
    var sum = 0.0;
    for (var part = 0u; part < params.parts; part++) {
        sum += partial[part * params.count + i];
    }
    let at = params.y_first + i;
    if (params.accumulate != 0u) {
        sum += y[at];
    }
    let row = i / params.extent.y;
    y[at] = finished(sum, params.bias_channels, row / params.extent.x, row % params.extent.x, i % params.extent.y);
}
