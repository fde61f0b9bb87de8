// Fully connected layer, forward and backward. At the batch sizes of training the weight is by far the largest operand:
// every kernel reads or writes it once per tile of the batch, whole rows in order, as vec4s where rows are whole vec4s
// (entry points *_vec4f) and as single elements elsewhere (*_f32). Extents along I count such elements.
//
//   x: [N, I]   w: [O, I]   y, dy: [N, O]

//!include within
//!include epilogue

struct Params {
    // Rows of the batch, outputs and inputs in this dispatch.
    rows: u32,
    outputs: u32,
    inputs: u32,
    // First elements, and from a row of y or dy to the next.
    x_first: u32,
    w_first: u32,
    y_first: u32,
    y_row: u32,
    // Add to what the result holds instead of overwriting it.
    accumulate: u32,
    // `backward_input`: outputs are cut into ranges of `split`; range i is written `i * rows * inputs` elements further on.
    split: u32,
    // `forward`: of y's elements, see epilogue.wgsl.
    bias_channels: vec4u,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

fn dot_f32(a: f32, b: f32) -> f32 {
    return a * b;
}

fn dot_vec4f(a: vec4f, b: vec4f) -> f32 {
    return dot(a, b);
}

//# for element in vec4f f32

@group(0) @binding(3) var<storage, read> x_$element: array<$element>;
@group(0) @binding(4) var<storage, read> w_$element: array<$element>;
@group(0) @binding(5) var<storage, read_write> dx_$element: array<$element>;
@group(0) @binding(6) var<storage, read_write> dw_$element: array<$element>;

//# for n in 2 8

// Sums of each lane of a workgroup of `forward`: [8 outputs x $n rows][64 lanes].
var<workgroup> lane_sums_${n}_$element: array<array<f32, 64>, 8 * $n>;

// y[n, o] = sum over i of x[n, i] * w[o, i]
// Workgroup (x, y): rows $n x.. of the batch, outputs 8y..; lane l sums over the inputs l + 64j.
@compute @workgroup_size(64)
fn forward_${n}_$element(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = group.x * $n;
    let output = group.y * 8;
    //# for r in 0..$n
    let x$r = params.x_first + within(row + $r, params.rows) * params.inputs;
    //# end
    //# for o in 0..8
    let w$o = params.w_first + within(output + $o, params.outputs) * params.inputs;
    //# for r in 0..$n
    var sum${o}_$r = 0.0;
    //# end
    //# end
    for (var i = lane; i < params.inputs; i += 64) {
        //# for r in 0..$n
        let vx$r = x_$element[x$r + i];
        //# end
        //# for o in 0..8
        {
            let vw = w_$element[w$o + i];
            //# for r in 0..$n
            sum${o}_$r += dot_$element(vx$r, vw);
            //# end
        }
        //# end
    }
    //# for o in 0..8
    //# for r in 0..$n
    lane_sums_${n}_$element[$o * $n + $r][lane] = sum${o}_$r;
    //# end
    //# end
    workgroupBarrier();
    if (lane < 8 * $n) {
        var sum = 0.0;
        for (var l = 0u; l < 64; l++) {
            // Each lane begins at another bank of the memory.
            sum += lane_sums_${n}_$element[lane][(l + lane) % 64];
        }
        let o = output + lane / $n;
        let r = row + lane % $n;
        if (o < params.outputs && r < params.rows) {
            y[params.y_first + r * params.y_row + o] = finished(sum, params.bias_channels, 0u, r, o);
        }
    }
}

// dx[n, i] (+)= sum over o of dy[n, o] * w[o, i]
// Workgroup (x, y, z): inputs 64x.., rows $n y.. of the batch, outputs split*z..; lane l has input l.
@compute @workgroup_size(64)
fn backward_input_${n}_$element(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = group.x * 64 + lane;
    if (i >= params.inputs) {
        return;
    }
    let row = group.y * $n;
    //# for r in 0..$n
    let dy$r = params.y_first + within(row + $r, params.rows) * params.y_row;
    var sum$r = $element();
    //# end
    let first = group.z * params.split;
    let end = min(first + params.split, params.outputs);
    for (var o = first; o < end; o++) {
        let vw = w_$element[params.w_first + o * params.inputs + i];
        //# for r in 0..$n
        sum$r += dy[dy$r + o] * vw;
        //# end
    }
    let at = params.x_first + (group.z * params.rows + row) * params.inputs + i;
    //# for r in 0..$n
    if (row + $r < params.rows) {
        if (params.accumulate != 0) {
            sum$r += dx_$element[at + $r * params.inputs];
        }
        dx_$element[at + $r * params.inputs] = sum$r;
    }
    //# end
}
//# end

// dw[o, i] (+)= sum over n of dy[n, o] * x[n, i]
// Workgroup (x, y): inputs 128x.., outputs 8y..; lane l has inputs l and l + 64.
@compute @workgroup_size(64)
fn backward_weight_$element(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i0 = group.x * 128 + lane;
    let i1 = i0 + 64;
    if (i0 >= params.inputs) {
        return;
    }
    let read1 = within(i1, params.inputs);
    let output = group.y * 8;
    //# for o in 0..8
    let dy$o = params.y_first + within(output + $o, params.outputs);
    var sum${o}_0 = $element();
    var sum${o}_1 = $element();
    //# end
    for (var n = 0u; n < params.rows; n++) {
        let row = params.x_first + n * params.inputs;
        let x0 = x_$element[row + i0];
        let x1 = x_$element[row + read1];
        //# for o in 0..8
        {
            let d = dy[dy$o + n * params.y_row];
            sum${o}_0 += d * x0;
            sum${o}_1 += d * x1;
        }
        //# end
    }
    //# for o in 0..8
    if (output + $o < params.outputs) {
        let at = params.w_first + (output + $o) * params.inputs;
        if (params.accumulate != 0) {
            sum${o}_0 += dw_$element[at + i0];
            sum${o}_1 += dw_$element[at + read1];
        }
        dw_$element[at + i0] = sum${o}_0;
        if (i1 < params.inputs) {
            dw_$element[at + i1] = sum${o}_1;
        }
    }
    //# end
}
//# end
