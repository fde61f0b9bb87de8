// From u8 pictures [N, H, W, 3] to normalised f32 planes [N, 3, h, w]: crop, resample, flip, recolour, normalise, erase.
//!include grid
//!include philox

override CROP: u32 = 0u; // 0 centre, 1 random, 2 resized
override FLIP: bool = false;
override COLOR: bool = false; // whether colours are changed
override ERASE: bool = false; // whether parts may be erased
override MEAN_IMAGE: bool = false; // whether each place has a mean of its own

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
    min_area: u32,       // in 1/65536
    side: u32,           // of a square as large as a stored picture, in 1/65536 of a pixel
    color_stream: u32,
    erase: u32,          // probability, in 1/65536
    out_side: u32,       // of a square as large as the output, in 1/65536 of a pixel
    strengths: vec4f,    // of brightness, contrast, saturation
    pca_r: vec4f,        // what red gets of each principal component
    pca_g: vec4f,
    pca_b: vec4f,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> pixels: array<u32>; // four bytes a word
@group(0) @binding(2) var<storage, read> counter: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> mean_image: array<f32>; // [3, H, W], in [0, 1]

// Where output (0, 0) samples the picture, and the steps from one output to the next, in 1/65536 of a pixel: integers, so that every
// device samples the same places to the bit. See `src/ops/augment.rs`.
struct Placement {
    flip: bool,
    origin: vec2i, // row, column
    step: vec2i,
}

// floor of a uniform number times room + 1.
fn pick(word: u32, room: u32) -> u32 {
    return ((word >> 16u) * (room + 1u)) >> 16u;
}

// floor(a * b / 2^bits)
fn multiply(a: u32, b: u32, bits: u32) -> u32 {
    return (a >> bits) * b + (((a & ((1u << bits) - 1u)) * b) >> bits);
}

// floor(sqrt(v)), a bit at a time: devices' own may be off.
fn integer_sqrt(v: u32) -> u32 {
    var root = 0u;
    for (var bit = 32768u; bit != 0u; bit >>= 1u) {
        let next = root + bit;
        root = select(root, next, next * next <= v);
    }
    return root;
}

// exp(t * ln(4/3) / 2), t and the result in 1/32768.
fn half_aspect(t: i32) -> u32 {
    let x = (t * 18854) >> 14u;
    let square = (x * x) >> 18u;
    let cube = (square * x) >> 18u;
    return u32((262144 + x + square / 2 + cube / 6) >> 3u);
}

fn placement(picture: u32) -> Placement {
    let words = philox(counter[0], params.stream, 2u * picture); // flip, top, left, area
    var place: Placement;
    place.flip = FLIP && (words.x >> 31u) == 0u;
    place.step = vec2i(65536);
    if (CROP == 2u) {
        let aspect = philox(counter[0], params.stream, 2u * picture + 1u).x;
        let stored = vec2u(params.stored_h, params.stored_w) << vec2u(16u);
        let area = min(params.min_area + multiply(65536u - params.min_area, words.w >> 16u, 16u), 65535u);
        let side = multiply(params.side, integer_sqrt(area << 16u), 16u);
        let t = i32(aspect >> 16u) - 32768;
        let crop = min(vec2u(multiply(side, half_aspect(-t), 15u), multiply(side, half_aspect(t), 15u)), stored);
        let room = stored - crop;
        let corner = vec2u(multiply(room.x, words.y >> 16u, 16u), multiply(room.y, words.z >> 16u, 16u));
        place.step = vec2i(crop / vec2u(params.h, params.w));
        place.origin = vec2i(corner) + place.step / 2 - 32768;
        return place;
    }
    let room_h = params.stored_h - params.h;
    let room_w = params.stored_w - params.w;
    if (CROP == 1u) {
        place.origin = vec2i(i32(pick(words.y, room_h)), i32(pick(words.z, room_w))) * 65536;
    } else {
        place.origin = vec2i(i32(room_h / 2u), i32(room_w / 2u)) * 65536;
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

// The mean of all pictures at a pixel.
fn mean_pixel(row: u32, column: u32) -> vec3f {
    let place = row * params.stored_w + column;
    let plane = params.stored_h * params.stored_w;
    return vec3f(mean_image[place], mean_image[place + plane], mean_image[place + 2u * plane]);
}

// A nearly normal number: the sum of eight numbers of 16 bits, less its mean, by its deviation.
fn normal(words: vec4u) -> f32 {
    let halves = (words >> vec4u(16u)) + (words & vec4u(65535u));
    return (f32(halves.x + halves.y + halves.z + halves.w) - 262140.0) / 53510.0;
}

// Brightness, contrast, saturation, principal components: see `src/ops/augment_color.rs`.
fn recolor(colour: vec3f, picture: u32) -> vec3f {
    let words = philox(counter[0], params.color_stream, 8u * picture);
    let uniform_parts = vec3f(words.xyz >> vec3u(8u)) / 16777216.0;
    let factors = 1.0 + (2.0 * uniform_parts - 1.0) * params.strengths.xyz;
    let lit = (colour * factors.x - params.mean.xyz) * factors.y + params.mean.xyz;
    let luma = dot(lit, vec3f(0.299, 0.587, 0.114));
    let a = vec3f(normal(philox(counter[0], params.color_stream, 8u * picture + 1u)),
                  normal(philox(counter[0], params.color_stream, 8u * picture + 2u)),
                  normal(philox(counter[0], params.color_stream, 8u * picture + 3u)));
    let added = vec3f(dot(params.pca_r.xyz, a), dot(params.pca_g.xyz, a), dot(params.pca_b.xyz, a));
    return luma + (lit - luma) * factors.z + added;
}

// Height or width of what is erased, of a square's side in 1/65536 of a pixel, within so many pixels.
fn erased_extent(side: u32, t: i32, within: u32) -> u32 {
    let square = multiply(half_aspect(t), half_aspect(t), 15u);
    return clamp(multiply(side, multiply(square, square, 15u), 15u) >> 16u, 1u, within);
}

// Whether output (row, column) is erased.
fn erased(picture: u32, row: u32, column: u32) -> bool {
    let words = philox(counter[0], params.color_stream, 8u * picture + 4u); // whether, area, ratio, place
    if ((words.x >> 16u) >= params.erase) {
        return false;
    }
    let area = 1311u + multiply(20316u, words.y >> 16u, 16u);
    let side = multiply(params.out_side, integer_sqrt(area << 16u), 16u);
    let t = i32(words.z >> 16u) - 32768;
    let height = erased_extent(side, t, params.h);
    let width = erased_extent(side, -t, params.w);
    let top = ((words.w >> 16u) * (params.h - height + 1u)) >> 16u;
    let left = ((words.w & 65535u) * (params.w - width + 1u)) >> 16u;
    return row >= top && row < top + height && column >= left && column < left + width;
}

// One invocation per output pixel.
@compute @workgroup_size(LANES)
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
    let last = vec2u(params.stored_h - 1u, params.stored_w - 1u);
    let at = vec2u(max(place.origin + vec2i(i32(i), i32(column)) * place.step, vec2i(0)));
    let low = at >> vec2u(16u);
    let high = min(low + 1u, last);
    let part = vec2f(at & vec2u(65535u)) / 65536.0;
    let start = params.pixels_first + picture * params.stored_h * params.stored_w * 3u;
    let upper = mix(pixel(start, low.x, low.y), pixel(start, low.x, high.y), part.y);
    let lower = mix(pixel(start, high.x, low.y), pixel(start, high.x, high.y), part.y);
    var sampled = mix(upper, lower, part.x) / 255.0;
    if (COLOR) {
        sampled = recolor(sampled, params.first_picture + picture);
    }
    var mean = params.mean.xyz;
    if (MEAN_IMAGE) {
        let above = mix(mean_pixel(low.x, low.y), mean_pixel(low.x, high.y), part.y);
        let below = mix(mean_pixel(high.x, low.y), mean_pixel(high.x, high.y), part.y);
        mean = mix(above, below, part.x);
    }
    var colour = (sampled - mean) / params.deviation.xyz;
    if (ERASE) {
        if (erased(params.first_picture + picture, i, j)) {
            colour = vec3f(0.0);
        }
    }
    let result = params.out_first + picture * 3u * plane + position;
    out[result] = colour.x;
    out[result + plane] = colour.y;
    out[result + 2u * plane] = colour.z;
}
