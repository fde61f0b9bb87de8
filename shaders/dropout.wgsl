// Dropout by a Philox mask: one block of four words for each vec4.
//!include elements
//!include philox

override STRIP: bool = false; // whether the elements are a strip of each row of a larger tensor

struct Params {
    count: u32,
    first_block: u32, // of the window's first element
    stream: u32,
    threshold: u32,
    scale: f32,
    begin: u32,       // number of the window's first element
    first: u32,       // of a strip: place of element 0 in the larger tensor
    width: u32,       // elements of the strip's rows
    stride: u32,      // elements of the larger tensor's rows
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> counter: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

// The random word of element i of a strip.
fn word(i: u32) -> u32 {
    let place = params.first + i / params.width * params.stride + i % params.width;
    return philox(counter[0], params.stream, place / 4u)[place % 4u];
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (4u * i >= params.count) {
        return;
    }
    var words: vec4u;
    if (STRIP) {
        let at = params.begin + 4u * i;
        words = vec4u(word(at), word(at + 1u), word(at + 2u), word(at + 3u));
    } else {
        words = philox(counter[0], params.stream, params.first_block + i);
    }
    let result = select(vec4f(0.0), x[i] * params.scale, words >= vec4u(params.threshold));
    y[i] = result;
}
