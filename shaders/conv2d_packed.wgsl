// The product of packed panels, see conv2d.wgsl. A file of its own because it needs a device with subgroups.

//!include conv2d_params

// As `pack_a` and `pack_b` wrote them.
@group(0) @binding(1) var panels_a: texture_2d<f32>;
@group(0) @binding(2) var panels_b: texture_2d<f32>;

// Workgroup (x, y, z): rows 16x.., columns n_first + 32y.., group z. The workgroup is one subgroup of 8: lane l holds rows
// l + 8i of A and columns l + 8j of B, four terms at a time, and sums these columns for all 16 rows.
@compute @workgroup_size(8)
fn multiply(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let quads = (params.k_end - params.k_first + 3u) / 4u;
    let panel_a = (group.z * groups.x + group.x) * quads * 16u + lane;
    let panel_b = (group.z * groups.y + group.y) * quads * 32u + lane;
    //# for i in 0..2
    //# for l in 0..8
    //# for j in 0..4
    var sum${i}_${l}_$j = 0.0;
    //# end
    //# end
    //# end
    for (var quad = 0u; quad < quads; quad++) {
        //# for i in 0..2
        let a$i = textureLoad(panels_a, panel_texel(panel_a + quad * 16u + $i * 8u), 0);
        //# end
        //# for j in 0..4
        let b$j = textureLoad(panels_b, panel_texel(panel_b + quad * 32u + $j * 8u), 0);
        //# end
        //# for t in 0..4
        //# for i in 0..2
        //# for l in 0..8
        {
            let a = subgroupBroadcast(a$i[$t], ${l}u);
            //# for j in 0..4
            sum${i}_${l}_$j = fma(a, b$j[$t], sum${i}_${l}_$j);
            //# end
        }
        //# end
        //# end
        //# end
    }
    var sums: array<vec4f, 16>;
    //# for i in 0..2
    //# for l in 0..8
    sums[$i * 8 + $l] = vec4f(sum${i}_${l}_0, sum${i}_${l}_1, sum${i}_${l}_2, sum${i}_${l}_3);
    //# end
    //# end
    let m_first = group.x * 16u;
    let rows = min(16u, params.m - m_first);
    let base = params.c_first + group.z * params.c_group + m_first * params.c_row;
    //# for j in 0..4
    {
        let n = params.n_first + group.y * 32u + $j * 8u + lane;
        if (n < params.n) {
            let column = base + (n / params.c_inner) * params.c_outer + n % params.c_inner;
            for (var row = 0u; row < rows; row++) {
                store_c(column + row * params.c_row, sums[row][$j]);
            }
        }
    }
    //# end
}
