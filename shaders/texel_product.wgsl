// Matrix products of texels, for Vulkan run by the processor, where barriers and loads from buffers are dear:
//
//     C[m, n] (+)= sum over k of A[m, k] * B[k, n].
//
//   `multiply_terms`   a texel holds four terms: of a row of A, of a column of B
//   `multiply_lines`   a texel holds one term: of four rows of A, of four columns of B
//
// Workgroup (x, y, z): rows 16x.., columns 32y.., group z. The workgroup is one subgroup of 8 that broadcasts A's rows.
// A file of its own because it needs a device with subgroups.

//!include texel_lines
//!include epilogue

struct Params {
    // Rows and columns of C, per group, and terms: texels of `multiply_terms`, columns in texels of `multiply_lines`.
    rows: u32,
    columns: u32,
    terms: u32,
    // Where this dispatch's columns and terms begin; `columns` is where the columns end.
    column_first: u32,
    term_first: u32,
    // From one group to the next, and from one row (four rows) of A to the next; the first texel of B.
    a_group: u32,
    b_group: u32,
    a_row: u32,
    b_first: u32,
    // Columns of B and terms on grids, and how far they lie apart. The terms of A of `multiply_terms` lie side by side.
    column_grid: vec2u,
    term_grid: vec2u,
    column_steps: vec3u,
    a_steps: vec3u,
    b_steps: vec3u,
    // C[m, n] is at c_first + group*c_group + m*c_row + (n / c_inner)*c_outer + n % c_inner; for columns in texels, element j
    // of texel n at j*c_channel more, as far as 4*(n / c_inner) + j is below `channels`.
    c_first: u32,
    c_group: u32,
    c_row: u32,
    c_inner: u32,
    c_outer: u32,
    c_channel: u32,
    channels: u32,
    // Add to what C holds instead of overwriting it.
    accumulate: u32,
    // Of C's elements, see epilogue.wgsl; of `multiply_terms` only.
    bias_channels: vec4u,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

fn store_c(at: u32, value: f32) {
    if (params.accumulate != 0u) {
        c[at] += value;
    } else {
        c[at] = value;
    }
}

// First element of C of a workgroup.
fn first_c(group: vec3u) -> u32 {
    return params.c_first + group.z * params.c_group + group.x * 16u * params.c_row;
}

// Lane l holds rows l + 8i of A and columns l + 8j of B, and sums these columns for all 16 rows.
@compute @workgroup_size(8)
fn multiply_terms(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    //# for i in 0..2
    let at_a$i = group.z * params.a_group + (group.x * 16u + $i * 8u + lane) * params.a_row + params.term_first;
    //# end
    //# for j in 0..4
    let n$j = params.column_first + group.y * 32u + $j * 8u + lane;
    let at_b$j = params.b_first + group.z * params.b_group + place(n$j, params.column_grid, params.column_steps);
    //# end
    var walk = start(params.term_first, params.term_grid, params.b_steps);
    let stride = stride(1u, params.term_grid, params.b_steps);
    //# for i in 0..2
    //# for l in 0..8
    //# for j in 0..4
    var sum${i}_${l}_$j = 0.0;
    //# end
    //# end
    //# end
    for (var k = 0u; k < params.terms; k++) {
        //# for i in 0..2
        let a$i = textureLoad(a, texel(at_a$i + k));
        //# end
        //# for j in 0..4
        let b$j = textureLoad(b, texel(at_b$j + walk.at));
        //# end
        walk = next(walk, stride);
        //# for i in 0..2
        //# for l in 0..8
        {
            //# for t in 0..4
            let t$t = subgroupBroadcast(a$i[$t], ${l}u);
            //# end
            //# for j in 0..4
            sum${i}_${l}_$j = fma(t3, b$j[3], fma(t2, b$j[2], fma(t1, b$j[1], fma(t0, b$j[0], sum${i}_${l}_$j))));
            //# end
        }
        //# end
        //# end
    }
    var sums: array<vec4f, 16>;
    //# for i in 0..2
    //# for l in 0..8
    sums[$i * 8 + $l] = vec4f(sum${i}_${l}_0, sum${i}_${l}_1, sum${i}_${l}_2, sum${i}_${l}_3);
    //# end
    //# end
    let rows = min(16u, params.rows - group.x * 16u);
    //# for j in 0..4
    if (n$j < params.columns) {
        let column = first_c(group) + (n$j / params.c_inner) * params.c_outer + n$j % params.c_inner;
        for (var row = 0u; row < rows; row++) {
            let at = column + row * params.c_row;
            var sum = sums[row][$j];
            if (params.accumulate != 0u) {
                sum += c[at];
            }
            c[at] = finished(sum, params.bias_channels, group.z, group.x * 16u + row, n$j);
        }
    }
    //# end
}

// Lane l sums four columns, texel 8y + l, for all 16 rows.
@compute @workgroup_size(8)
fn multiply_lines(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let n = params.column_first + group.y * 8u + lane;
    let a_first = group.z * params.a_group + (group.x * 4u + lane % 4u) * params.a_row;
    let b_first = params.b_first + group.z * params.b_group + place(n, params.column_grid, params.column_steps);
    let lines = Lines(params.term_first, params.terms, params.term_grid, params.a_steps, params.b_steps);
    var sums = sum_lines(lines, a_first, b_first, lane);
    if (n >= params.columns) {
        return;
    }
    let rows = min(16u, params.rows - group.x * 16u);
    let outer = n / params.c_inner;
    let columns = params.channels - outer * 4u;
    let column = first_c(group) + outer * params.c_outer + n % params.c_inner;
    for (var row = 0u; row < rows; row++) {
        let at = column + row * params.c_row;
        let sum = sums[row];
        //# for j in 0..4
        if ($j < columns) {
            store_c(at + $j * params.c_channel, sum[$j]);
        }
        //# end
    }
}
