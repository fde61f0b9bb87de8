// Fully connected layers at batches where the weight is no longer all that counts: matrix products by tiles in workgroup memory,
//
//     C[m, n] (+)= sum over k of A[m, k] * B[k, n].
//
//                    m        n        k        A              B
//   forward          batch    outputs  inputs   x              w, transposed
//   backward input   batch    inputs   outputs  dy             w
//   backward weight  outputs  inputs   batch    dy, transposed x

//!include real
//!include epilogue

struct Params {
    // Extents of C, and the terms of this dispatch, cut into parts of `part`; part z is written z*c_part elements further on.
    m: u32,
    n: u32,
    k: u32,
    part: u32,
    c_part: u32,
    // A[m, k] = a[a_first + m*a_line + k*a_term], B[k, n] = b[b_first + n*b_line + k*b_term]
    a_first: u32,
    a_line: u32,
    a_term: u32,
    b_first: u32,
    b_line: u32,
    b_term: u32,
    // What A and B are multiplied by where they are held in 16-bit floats.
    a_scale: f32,
    b_scale: f32,
    // C[m, n] = c[c_first + m*c_row + n]
    c_first: u32,
    c_row: u32,
    // Add to what C holds instead of overwriting it.
    accumulate: u32,
    // Of C's elements, see epilogue.wgsl.
    bias_channels: vec4u,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

// Terms per step through workgroup memory, in vec4s.
const DEPTH: u32 = 4;

// Which line and which four terms of a step are number i of them. Neighbours are neighbours in memory.
fn quad(i: u32, lines: u32, term_step: u32) -> vec2u {
    return select(vec2u(i % lines, i / lines), vec2u(i / DEPTH, i % DEPTH), term_step == 1u);
}

// Terms k to k + 3 of row m of A; 0 from `end` on and outside of A.
fn load_a(m: u32, k: u32, end: u32) -> vec4f {
    var terms = vec4f();
    let at = params.a_first + m * params.a_line + k * params.a_term;
    //# for t in 0..4
    if (m < params.m && k + $t < end) {
        terms[$t] = a[at + $t * params.a_term];
    }
    //# end
    return terms;
}

// The same of column n of B.
fn load_b(n: u32, k: u32, end: u32) -> vec4f {
    var terms = vec4f();
    let at = params.b_first + n * params.b_line + k * params.b_term;
    //# for t in 0..4
    if (n < params.n && k + $t < end) {
        terms[$t] = b[at + $t * params.b_term];
    }
    //# end
    return terms;
}

// `tile_SIDE_SUMS`: SIDE x SIDE invocations, each with SUMS x SUMS sums in registers.

//# for side in 8 16
//# for sums in 4 8

// [DEPTH][lines of the tile]: four terms of a row of A, of a column of B.
var<workgroup> a_${side}_$sums: array<vec4<real>, DEPTH * $side * $sums>;
var<workgroup> b_${side}_$sums: array<vec4<real>, DEPTH * $side * $sums>;

// Workgroup (x, y, z): a tile of columns x and of rows y, part z of the terms. Invocation (x, y) sums rows y + side*i and columns
// x + side*j.
@compute @workgroup_size($side, $side)
fn tile_${side}_$sums(
    @builtin(workgroup_id) workgroup: vec3u,
    @builtin(local_invocation_id) local: vec3u,
    @builtin(local_invocation_index) index: u32,
) {
    let lines = u32($side * $sums);
    let first_m = workgroup.y * lines;
    let first_n = workgroup.x * lines;
    let first = workgroup.z * params.part;
    let end = min(first + params.part, params.k);
    //# for i in 0..$sums
    //# for j in 0..$sums
    var sum${i}_$j = 0.0;
    //# end
    //# end
    for (var k = first; k < end; k += DEPTH * 4u) {
        for (var i = index; i < DEPTH * lines; i += $side * $side) {
            let in_a = quad(i, lines, params.a_term);
            a_${side}_$sums[in_a.y * lines + in_a.x] = hold(load_a(first_m + in_a.x, k + 4u * in_a.y, end), params.a_scale);
            let in_b = quad(i, lines, params.b_term);
            b_${side}_$sums[in_b.y * lines + in_b.x] = hold(load_b(first_n + in_b.x, k + 4u * in_b.y, end), params.b_scale);
        }
        workgroupBarrier();
        for (var d = 0u; d < DEPTH; d++) {
            //# for j in 0..$sums
            let b$j = vec4f(b_${side}_$sums[d * lines + local.x + $j * $side]);
            //# end
            //# for i in 0..$sums
            let a$i = vec4f(a_${side}_$sums[d * lines + local.y + $i * $side]);
            //# for j in 0..$sums
            sum${i}_$j += dot(a$i, b$j);
            //# end
            //# end
        }
        workgroupBarrier();
    }
    let base = params.c_first + workgroup.z * params.c_part;
    //# for i in 0..$sums
    {
        let m = first_m + local.y + $i * $side;
        //# for j in 0..$sums
        {
            let n = first_n + local.x + $j * $side;
            if (m < params.m && n < params.n) {
                let at = base + m * params.c_row + n;
                var value = unscaled(sum${i}_$j, params.a_scale, params.b_scale);
                if (params.accumulate != 0u) {
                    value += c[at];
                }
                c[at] = finished(value, params.bias_channels, 0u, m, n);
            }
        }
        //# end
    }
    //# end
}
//# end
//# end
