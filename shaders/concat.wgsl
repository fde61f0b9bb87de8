// Joining along channels, and its gradient: a strip of each row is copied.
//!include grid

struct Params {
    count: u32,
    width: u32, // of the strip
    in_stride: u32,
    in_first: u32,
    out_stride: u32,
    out_first: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

// out[row, k] = x[row, k] for k < width
@compute @workgroup_size(LANES)
fn copy(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (i >= params.count) {
        return;
    }
    let row = i / params.width;
    let k = i % params.width;
    out[params.out_first + row * params.out_stride + k] = x[params.in_first + row * params.in_stride + k];
}
