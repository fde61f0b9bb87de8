// Max-pooling. The backward pass finds each window's maximum, then gathers: each input looks at the windows that hold it, so that
// no two invocations write one place and the order of additions is fixed.
//!include grid
//!include nan
//!include pool

struct Params {
    planes: u32,
    h: u32,
    w: u32,
    p: u32,
    q: u32,
    x_first: u32,
    dy_first: u32,
    out_first: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

// Place in x of the first maximum (or NaN) in the window of output (i, j), in row-major order; `plane` is the plane's start.
fn first_maximum(plane: u32, i: u32, j: u32) -> u32 {
    let rows = covered(i, KERNEL_H, STRIDE_H, PADDING_H, params.h);
    let columns = covered(j, KERNEL_W, STRIDE_W, PADDING_W, params.w);
    var best = plane + rows.x * params.w + columns.x;
    var best_value = x[best];
    for (var row = rows.x; row < rows.y; row += 1u) {
        for (var column = columns.x; column < columns.y; column += 1u) {
            let place = plane + row * params.w + column;
            let value = x[place];
            if (value > best_value || (is_nan(value) && !is_nan(best_value))) {
                best = place;
                best_value = value;
            }
        }
    }
    return best;
}

// Of output `index`, where its plane starts in x, and the place of the maximum.
fn maximum_of(index: u32) -> vec2u {
    let j = index % params.q;
    let i = (index / params.q) % params.p;
    let plane = params.x_first + index / (params.p * params.q) * params.h * params.w;
    return vec2u(plane, first_maximum(plane, i, j));
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let index = flat_thread(group, groups, local);
    if (index >= params.planes * params.p * params.q) {
        return;
    }
    out[params.out_first + index] = x[maximum_of(index).y];
}

// Of each output the place of its maximum in x, counted from the plane's start, for `backward`.
@group(0) @binding(4) var<storage, read_write> places: array<u32>;

@compute @workgroup_size(LANES)
fn find(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let index = flat_thread(group, groups, local);
    if (index >= params.planes * params.p * params.q) {
        return;
    }
    let maximum = maximum_of(index);
    places[index] = maximum.y - maximum.x;
}

@group(0) @binding(5) var<storage, read> found: array<u32>;

@compute @workgroup_size(LANES)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let index = flat_thread(group, groups, local);
    if (index >= params.planes * params.h * params.w) {
        return;
    }
    let place = index % (params.h * params.w);
    let column = place % params.w;
    let row = place / params.w;
    let first = index / (params.h * params.w) * params.p * params.q;
    let rows = covering(row, KERNEL_H, STRIDE_H, PADDING_H, params.p);
    let columns = covering(column, KERNEL_W, STRIDE_W, PADDING_W, params.q);
    var sum = 0.0;
    for (var i = rows.x; i < rows.y; i += 1u) {
        for (var j = columns.x; j < columns.y; j += 1u) {
            let output = first + i * params.q + j;
            if (found[output] == place) {
                sum += dy[params.dy_first + output];
            }
        }
    }
    out[params.out_first + index] = sum;
}
