// Local response normalisation across the channels of a [N, C, plane]; Krizhevsky 2012, section 3.3.
//!include grid
//!include nan

override RADIUS: i32 = 2; // channels on each side
override BETA: f32 = 0.75;

struct Params {
    count: u32,
    channels: u32,
    plane: u32,
    a_first: u32,
    db_first: u32,
    out_first: u32,
    k: f32,
    alpha: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> db: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

// s[c] = k + alpha * the sum of a[j]^2 over the window of c; `start` is the place of the pixel in channel 0.
fn bracket(start: u32, c: i32) -> f32 {
    let last = min(c + RADIUS, i32(params.channels) - 1);
    var sum = 0.0;
    for (var j = max(c - RADIUS, 0); j <= last; j += 1) {
        let v = a[params.a_first + start + u32(j) * params.plane];
        sum += v * v;
    }
    return params.k + params.alpha * sum;
}

// s^-beta. WGSL's pow may be wrong in the last 4 digits; roots are nearly exact, and 0.75 is what the paper uses.
fn power(s: f32) -> f32 {
    if (BETA == 0.75) {
        let root = sqrt(s);
        return 1.0 / (root * sqrt(root));
    }
    return select(exp2(-BETA * log2(s)), s, is_nan(s));
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (i >= params.count) {
        return;
    }
    let c = (i / params.plane) % params.channels;
    out[params.out_first + i] = a[params.a_first + i] * power(bracket(i - c * params.plane, i32(c)));
}

// da[c] = db[c] * s[c]^-beta - 2 * alpha * beta * a[c] * the sum of db[j] * a[j] * s[j]^(-beta-1) over the window of c.
@compute @workgroup_size(LANES)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (i >= params.count) {
        return;
    }
    let c = i32((i / params.plane) % params.channels);
    let start = i - u32(c) * params.plane;
    let last = min(c + RADIUS, i32(params.channels) - 1);
    var sum = 0.0;
    var own: f32;
    for (var j = max(c - RADIUS, 0); j <= last; j += 1) {
        let s = bracket(start, j);
        let p = power(s);
        let place = start + u32(j) * params.plane;
        let d = db[params.db_first + place] * p;
        sum += d * a[params.a_first + place] / s;
        own = select(own, d, j == c);
    }
    out[params.out_first + i] = own - 2.0 * params.alpha * BETA * a[params.a_first + i] * sum;
}
