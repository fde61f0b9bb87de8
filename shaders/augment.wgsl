// From u8 pictures [N, H, W, 3] to normalised f32 planes [N, 3, h, w]: crop, resample, flip, normalise.
//!include grid
//!include philox

override CROP: u32 = 0u; // 0 centre, 1 random, 2 resized
override FLIP: bool = false;

struct Params {
    mean: vec4f,
    deviation: vec4f,
    pictures: u32,       // in the window
    first_picture: u32,  // of the window
    pixels_first: u32,   // byte of the window at which its first picture begins
    out_first: u32,
    stored_h: u32,
    stored_w: u32,
    h: u32,
    w: u32,
    stream: u32,
    min_area: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> pixels: array<u32>; // four bytes a word
@group(0) @binding(2) var<storage, read> counter: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

// Where output (0, 0) samples the picture, and the steps from one output to the next.
struct Placement {
    flip: bool,
    origin: vec2f, // row, column
    step: vec2f,
}

// floor of a uniform number times room + 1, in integers so that every device rounds alike.
fn pick(word: u32, room: u32) -> f32 {
    return f32(((word >> 16u) * (room + 1u)) >> 16u);
}

fn placement(picture: u32) -> Placement {
    let words = philox(counter[0], params.stream, 2u * picture); // flip, top, left, area
    var place: Placement;
    place.flip = FLIP && unit(words.x) < 0.5;
    place.step = vec2f(1.0);
    if (CROP == 2u) {
        let aspect = philox(counter[0], params.stream, 2u * picture + 1u).x;
        let stored = vec2f(f32(params.stored_h), f32(params.stored_w));
        let area = stored.x * stored.y * (params.min_area + unit(words.w) * (1.0 - params.min_area));
        let ratio = exp((2.0 * unit(aspect) - 1.0) * 0.28768207); // ln(4/3)
        let crop = min(sqrt(vec2f(area / ratio, area * ratio)), stored);
        place.step = crop / vec2f(f32(params.h), f32(params.w));
        place.origin = vec2f(unit(words.y), unit(words.z)) * (stored - crop) + 0.5 * place.step - 0.5;
        return place;
    }
    let room_h = params.stored_h - params.h;
    let room_w = params.stored_w - params.w;
    if (CROP == 1u) {
        place.origin = vec2f(pick(words.y, room_h), pick(words.z, room_w));
    } else {
        place.origin = vec2f(f32(room_h / 2u), f32(room_w / 2u));
    }
    return place;
}

fn byte(place: u32) -> f32 {
    return f32((pixels[place / 4u] >> (8u * (place % 4u))) & 255u);
}

// Red, green, blue of a pixel, 0 to 255.
fn pixel(picture_start: u32, row: u32, column: u32) -> vec3f {
    let place = picture_start + (row * params.stored_w + column) * 3u;
    return vec3f(byte(place), byte(place + 1u), byte(place + 2u));
}

// One invocation per output pixel.
@compute @workgroup_size(256)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let index = flat_thread(group, groups, local);
    let plane = params.h * params.w;
    let picture = index / plane;
    if (picture >= params.pictures) {
        return;
    }
    let place = placement(params.first_picture + picture);
    let position = index - picture * plane;
    let i = position / params.w;
    let j = position - i * params.w;
    let column = select(j, params.w - 1u - j, place.flip);
    let last = vec2f(f32(params.stored_h - 1u), f32(params.stored_w - 1u));
    let at = clamp(place.origin + vec2f(f32(i), f32(column)) * place.step, vec2f(0.0), last);
    let low = vec2u(at);
    let high = min(low + 1u, vec2u(last));
    let part = at - vec2f(low);
    let start = params.pixels_first + picture * params.stored_h * params.stored_w * 3u;
    let upper = mix(pixel(start, low.x, low.y), pixel(start, low.x, high.y), part.y);
    let lower = mix(pixel(start, high.x, low.y), pixel(start, high.x, high.y), part.y);
    let colour = (mix(upper, lower, part.x) / 255.0 - params.mean.xyz) / params.deviation.xyz;
    let result = params.out_first + picture * 3u * plane + position;
    out[result] = colour.x;
    out[result + plane] = colour.y;
    out[result + 2u * plane] = colour.z;
}
