// Dropout by a Philox mask: one block of four words for each vec4.
//!include elements
//!include philox

struct Params {
    count: u32,
    first_block: u32, // of the window's first element
    stream: u32,
    threshold: u32,
    scale: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> counter: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i >= params.count) {
        return;
    }
    let words = philox(counter[0], params.stream, params.first_block + i);
    let result = select(vec4f(0.0), x[i] * params.scale, words >= vec4u(params.threshold));
    y[i] = result;
}
