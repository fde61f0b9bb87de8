// Local response normalisation across the channels of a [N, C, plane]; Krizhevsky 2012, section 3.3. For the paper's window of
// five channels, an invocation walks along the channels and keeps the window in registers; any other is read anew for each
// element.
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

// Channels that an invocation of the kernels below makes.
const RUN: u32 = 16u;

// First elements and channels of an invocation's run, pixel by pixel: place of the pixel in channel 0, and the first channel.
fn run_of(i: u32) -> vec2u {
    let runs = (params.channels + RUN - 1u) / RUN;
    let j = i / params.plane;
    return vec2u((j / runs) * params.channels * params.plane + i % params.plane, (j % runs) * RUN);
}

// a[c] of the pixel at `start`, and 0 outside of the channels.
fn a_or_zero(start: u32, c: i32) -> f32 {
    if (c < 0 || c >= i32(params.channels)) {
        return 0.0;
    }
    return a[params.a_first + start + u32(c) * params.plane];
}

fn bracket_of(v0: f32, v1: f32, v2: f32, v3: f32, v4: f32) -> f32 {
    return params.k + params.alpha * (v0 * v0 + v1 * v1 + v2 * v2 + v3 * v3 + v4 * v4);
}

// `count` is the number of invocations: pixels times runs.
@compute @workgroup_size(LANES)
fn forward_5(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (i >= params.count) {
        return;
    }
    let run = run_of(i);
    let first = i32(run.y);
    let end = min(run.y + RUN, params.channels);
    var v0: f32;
    var v1 = a_or_zero(run.x, first - 2);
    var v2 = a_or_zero(run.x, first - 1);
    var v3 = a_or_zero(run.x, first);
    var v4 = a_or_zero(run.x, first + 1);
    for (var c = run.y; c < end; c++) {
        v0 = v1;
        v1 = v2;
        v2 = v3;
        v3 = v4;
        v4 = a_or_zero(run.x, i32(c) + 2);
        out[params.out_first + run.x + c * params.plane] = v2 * power(bracket_of(v0, v1, v2, v3, v4));
    }
}

@compute @workgroup_size(LANES)
fn backward_5(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) local: u32) {
    let i = flat_thread(group, groups, local);
    if (i >= params.count) {
        return;
    }
    let run = run_of(i);
    let first = i32(run.y);
    let end = min(first + i32(RUN), i32(params.channels));
    // Around channel j: a[j - 2] to a[j + 2], the terms of the sum of j - 4 to j, db s^-beta of j - 2 to j.
    var v0: f32;
    var v1 = a_or_zero(run.x, first - 4);
    var v2 = a_or_zero(run.x, first - 3);
    var v3 = a_or_zero(run.x, first - 2);
    var v4 = a_or_zero(run.x, first - 1);
    var t0: f32;
    var t1: f32;
    var t2: f32;
    var t3: f32;
    var t4: f32;
    var d0: f32;
    var d1: f32;
    var d2: f32;
    for (var j = first - 2; j < end + 2; j++) {
        v0 = v1;
        v1 = v2;
        v2 = v3;
        v3 = v4;
        v4 = a_or_zero(run.x, j + 2);
        t0 = t1;
        t1 = t2;
        t2 = t3;
        t3 = t4;
        t4 = 0.0;
        d0 = d1;
        d1 = d2;
        if (j >= 0 && j < i32(params.channels)) {
            let s = bracket_of(v0, v1, v2, v3, v4);
            d2 = db[params.db_first + run.x + u32(j) * params.plane] * power(s);
            t4 = d2 * v2 / s;
        }
        if (j >= first + 2) {
            let place = params.out_first + run.x + u32(j - 2) * params.plane;
            out[place] = d0 - 2.0 * params.alpha * BETA * v0 * (t0 + t1 + t2 + t3 + t4);
        }
    }
}
