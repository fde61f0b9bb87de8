// Average-pooling. The backward pass gathers, as max-pooling's does.
//!include grid
//!include pool

override COUNT_INCLUDE_PAD: bool = true;

struct Params {
    planes: u32,
    h: u32,
    w: u32,
    p: u32,
    q: u32,
    in_first: u32,
    out_first: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

// Positions that count along an axis: of the picture and its padding, never beyond, or of the picture alone.
fn positions(index: u32, kernel: u32, stride: u32, padding: u32, extent: u32) -> u32 {
    if (COUNT_INCLUDE_PAD) {
        return min(index * stride + kernel, extent + 2u * padding) - index * stride;
    }
    let range = covered(index, kernel, stride, padding, extent);
    return range.y - range.x;
}

fn divisor(i: u32, j: u32) -> f32 {
    return f32(positions(i, KERNEL_H, STRIDE_H, PADDING_H, params.h) * positions(j, KERNEL_W, STRIDE_W, PADDING_W, params.w));
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let index = flat_thread(group, groups, local);
    if (index >= params.planes * params.p * params.q) {
        return;
    }
    let j = index % params.q;
    let i = (index / params.q) % params.p;
    let plane = params.in_first + index / (params.p * params.q) * params.h * params.w;
    let rows = covered(i, KERNEL_H, STRIDE_H, PADDING_H, params.h);
    let columns = covered(j, KERNEL_W, STRIDE_W, PADDING_W, params.w);
    var sum = 0.0;
    for (var row = rows.x; row < rows.y; row += 1u) {
        for (var column = columns.x; column < columns.y; column += 1u) {
            sum += x[plane + row * params.w + column];
        }
    }
    out[params.out_first + index] = sum / divisor(i, j);
}

@compute @workgroup_size(LANES)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let index = flat_thread(group, groups, local);
    if (index >= params.planes * params.h * params.w) {
        return;
    }
    let column = index % params.w;
    let row = (index / params.w) % params.h;
    let plane = index / (params.h * params.w);
    let rows = covering(row, KERNEL_H, STRIDE_H, PADDING_H, params.p);
    let columns = covering(column, KERNEL_W, STRIDE_W, PADDING_W, params.q);
    var sum = 0.0;
    for (var i = rows.x; i < rows.y; i += 1u) {
        for (var j = columns.x; j < columns.y; j += 1u) {
            sum += dy[params.in_first + (plane * params.p + i) * params.q + j] / divisor(i, j);
        }
    }
    out[params.out_first + index] = sum;
}
