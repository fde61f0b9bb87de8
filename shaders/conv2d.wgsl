// Convolutions, see conv2d_product.wgsl, by tiles of sums in registers. Vulkan that is run by the processor has kernels of its own, see
// texel_product.wgsl; GPUs that multiply matrices have, too, see conv2d_matrices.wgsl.

//!include conv2d_product

// Whether a step's terms are fetched while the step before is summed: memory's latency is hidden, for more registers.
override AHEAD: bool = false;

// `tile_SIDE_ROWS_COLUMNS`: SIDE x SIDE invocations, each with ROWS x COLUMNS sums in registers. Small tiles make more workgroups, large
// ones read less: which is fastest depends on the device and the product.

//# for side in 8 16
//# for rows in 4 8
//# for columns in 4 8

// [DEPTH][rows or columns of the tile]: four terms of a row of A, of a column of B.
var<workgroup> a_${side}_${rows}_$columns: array<vec4<real>, DEPTH * $side * $rows>;
var<workgroup> b_${side}_${rows}_$columns: array<vec4<real>, DEPTH * $side * $columns>;

// Workgroup (x, y, z): a tile of columns x and of rows y, group and part z. Invocation (x, y) sums rows y + side*i and columns
// x + side*j; the first ones bring a row of A each into workgroup memory, the last ones a column of B.
@compute @workgroup_size($side, $side)
fn tile_${side}_${rows}_$columns(
    @builtin(workgroup_id) workgroup: vec3u,
    @builtin(local_invocation_id) local: vec3u,
    @builtin(local_invocation_index) index: u32,
) {
    let group = workgroup.z / params.parts;
    let part = workgroup.z % params.parts;
    let first = params.k_first + part * params.part;
    let end = min(first + params.part, params.k_end);
    let first_m = workgroup.y * ($side * $rows);
    let first_n = params.n_first + workgroup.x * ($side * $columns);
    let brings_a = index < $side * $rows;
    let column = index - $side * ($side - $columns);
    let brings_b = column < $side * $columns;
    var walk_a = start_a(group, first_m + index, first, end);
    var walk_b = start_b(group, first_n + column, first, end);
    //# for i in 0..$rows
    //# for j in 0..$columns
    var sum$i_$j = 0.0;
    //# end
    //# end
    var terms_a: array<vec4f, DEPTH>;
    var terms_b: array<vec4f, DEPTH>;
    if (AHEAD && brings_a) {
        terms_a = fetch_a(&walk_a);
    }
    if (AHEAD && brings_b) {
        terms_b = fetch_b(&walk_b);
    }
    for (var k = first; k < end; k += DEPTH * 4u) {
        if (!AHEAD && brings_a) {
            terms_a = fetch_a(&walk_a);
        }
        if (!AHEAD && brings_b) {
            terms_b = fetch_b(&walk_b);
        }
        //# for d in 0..4
        if (brings_a) {
            a_${side}_${rows}_$columns[$d * ($side * $rows) + index] = hold(terms_a[$d], params.a_scale);
        }
        if (brings_b) {
            b_${side}_${rows}_$columns[$d * ($side * $columns) + column] = hold(terms_b[$d], params.b_scale);
        }
        //# end
        workgroupBarrier();
        if (AHEAD && brings_a) {
            terms_a = fetch_a(&walk_a);
        }
        if (AHEAD && brings_b) {
            terms_b = fetch_b(&walk_b);
        }
        for (var d = 0u; d < DEPTH; d++) {
            //# for j in 0..$columns
            let b$j = vec4f(b_${side}_${rows}_$columns[d * ($side * $columns) + local.x + $j * $side]);
            //# end
            //# for i in 0..$rows
            let a$i = vec4f(a_${side}_${rows}_$columns[d * ($side * $rows) + local.y + $i * $side]);
            //# for j in 0..$columns
            sum$i_$j += dot(a$i, b$j);
            //# end
            //# end
        }
        workgroupBarrier();
    }
    let base = params.c_first + group * params.c_group + part * params.c_part;
    //# for j in 0..$columns
    {
        let n = first_n + local.x + $j * $side;
        let column = base + (n / params.c_inner) * params.c_outer + n % params.c_inner;
        //# for i in 0..$rows
        {
            let m = first_m + local.y + $i * $side;
            if (m < params.m && n < params.n) {
                store_c(column + m * params.c_row, unscaled(sum$i_$j, params.a_scale, params.b_scale), group, m, n);
            }
        }
        //# end
    }
    //# end
}
//# end
//# end
//# end
