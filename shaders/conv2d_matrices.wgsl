// Convolutions, see conv2d_product.wgsl, and fully connected layers as convolutions of one place, on GPUs whose subgroups multiply
// matrices at once.

//!include matrices
//!include conv2d_product

// Subgroups that work; where a workgroup has more, since they are smaller than the host could know, the others idle.
override SUBGROUPS: u32 = 4;

// `multiply_SIZE_COUNT`: a workgroup makes four squares of sums, two and two, each of COUNT x COUNT matrices of SIZE x SIZE that a
// subgroup holds.

//# for size in 8 16
//# for count in 2 4

// Workgroup (x, y, z): a tile of columns x and of rows y, group and part z. The first invocations bring a row of A each into
// workgroup memory, the last ones a column of B.
@compute @workgroup_size(128)
fn multiply_${size}_$count(
    @builtin(workgroup_id) workgroup: vec3u,
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let square = u32($count * $size);
    let group = workgroup.z / params.parts;
    let part = workgroup.z % params.parts;
    let first = params.k_first + part * params.part;
    let end = min(first + params.part, params.k_end);
    let first_m = workgroup.y * (2u * square);
    let first_n = params.n_first + workgroup.x * (2u * square);
    let base = params.c_first + group * params.c_group + part * params.c_part;
    let brings_a = index < 2u * square;
    let column = index - (128u - 2u * square);
    let brings_b = column < 2u * square;
    // Those that idle do what the last one does, and keep it to themselves.
    let worker = min(subgroup, SUBGROUPS);
    for (var first_square = 0u; first_square < 4u; first_square += SUBGROUPS) {
        let own = first_square + min(worker, SUBGROUPS - 1u);
        let row_a = (own / 2u) * square;
        let column_b = (own % 2u) * square;
        for (var i = index; i < ${size}u * ${size}u; i += 128u) {
            sums_$size[i] = 0.0;
        }
        workgroupBarrier();
        //# for i in 0..$count
        //# for j in 0..$count
        var sum${i}_$j = load_c_$size(0u);
        //# end
        //# end
        var walk_a = start_a(group, first_m + index, first, end);
        var walk_b = start_b(group, first_n + column, first, end);
        // A step's terms are fetched while those of the step before are multiplied.
        for (var k = first; k < end + TERMS; k += TERMS) {
            var terms_a: array<vec4f, DEPTH>;
            var terms_b: array<vec4f, DEPTH>;
            if (brings_a && k < end) {
                terms_a = fetch_a(&walk_a);
            }
            if (brings_b && k < end) {
                terms_b = fetch_b(&walk_b);
            }
            if (k > first) {
                for (var t = 0u; t < TERMS; t += ${size}u) {
                    //# for i in 0..$count
                    let a$i = load_a_${size}_$count((row_a + $i * ${size}u) * TERMS + t);
                    let b$i = load_b_${size}_$count((column_b + $i * ${size}u) * TERMS + t);
                    //# end
                    //# for i in 0..$count
                    //# for j in 0..$count
                    sum${i}_$j = multiply_add_${size}_$count(a$i, b$j, sum${i}_$j);
                    //# end
                    //# end
                }
            }
            workgroupBarrier();
            //# for d in 0..4
            if (brings_a) {
                let held = hold(terms_a[$d], params.a_scale);
                //# for t in 0..4
                a_${size}_$count[index * TERMS + $d * 4u + $t] = held[$t];
                //# end
            }
            if (brings_b) {
                let held = hold(terms_b[$d], params.b_scale);
                //# for t in 0..4
                b_${size}_$count[column * TERMS + $d * 4u + $t] = held[$t];
                //# end
            }
            //# end
            workgroupBarrier();
        }
        //# for i in 0..$count
        //# for j in 0..$count
        store_c_$size(sum${i}_$j, worker * (${size}u * ${size}u));
        workgroupBarrier();
        for (var e = index; e < SUBGROUPS * (${size}u * ${size}u); e += 128u) {
            let square_of = first_square + e / (${size}u * ${size}u);
            let m = first_m + (square_of / 2u) * square + $i * ${size}u + (e / ${size}u) % ${size}u;
            let n = first_n + (square_of % 2u) * square + $j * ${size}u + e % ${size}u;
            if (m < params.m && n < params.n) {
                let at = base + m * params.c_row + (n / params.c_inner) * params.c_outer + n % params.c_inner;
                store_c(at, unscaled(sums_$size[e], params.a_scale, params.b_scale), group, m, n);
            }
        }
        workgroupBarrier();
        //# end
        //# end
    }
}
//# end
//# end
