// Copies a value into texels of four channels, for Vulkan run by the processor: llvmpipe reads a texel of eight invocations in
// some fifty instructions, but each element of a buffer in twenty cycles.
//
//   texels: [groups][lines][quads of channels][extent.x][extent.y]
//
// A picture gets a border of zeros, and zeros between its rows and columns where a gradient of a strided convolution wants them.

//!include grid
//!include texel

struct Params {
    // Of all groups.
    texels: u32,
    lines: u32,
    quads: u32,
    // Channels of a group: those of the last quad beyond them are 0.
    channels: u32,
    extent: vec2u,
    // Of the source: a picture's extents, the border before it, and how far its rows and columns lie apart.
    image: vec2u,
    before: vec2u,
    step: vec2u,
    // Element [group][line][channel][x][y] is at first + group*group_step + line*line_step + channel*channel_step + x*image.y + y.
    first: u32,
    group_step: u32,
    line_step: u32,
    channel_step: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var texels: texture_storage_2d<rgba32float, write>;

@compute @workgroup_size(256)
fn pack(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_thread(group, groups, local);
    if (i >= params.texels) {
        return;
    }
    let row = i / params.extent.y;
    let plane = row / params.extent.x;
    let line = plane / params.quads;
    // A place before the picture becomes 2^31 or more, and stays outside.
    var place = vec2u(row % params.extent.x, i % params.extent.y) - params.before;
    var inside = all(place < vec2u(0x80000000u));
    if (any(params.step != vec2u(1u))) {
        inside = inside && all(place % params.step == vec2u(0u));
        place /= params.step;
    }
    inside = inside && all(place < params.image);
    let channel = (plane % params.quads) * 4u;
    let at = params.first + (line / params.lines) * params.group_step + (line % params.lines) * params.line_step
        + channel * params.channel_step + place.x * params.image.y + place.y;
    var value = vec4f();
    if (inside) {
        //# for j in 0..4
        if (channel + $j < params.channels) {
            value[$j] = source[at + $j * params.channel_step];
        }
        //# end
    }
    textureStore(texels, texel(i), value);
}
