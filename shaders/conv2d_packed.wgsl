// The product of packed panels, see conv2d.wgsl. A file of its own because it needs a device with subgroups.

//!include conv2d_params

// As `pack_a` and `pack_b` wrote them.
@group(0) @binding(1) var<storage, read> panels_a: array<vec4f>;
@group(0) @binding(2) var<storage, read> panels_b: array<vec4f>;

// Workgroup (x, y, z): rows 32x.., columns n_first + 32y.., group z. The workgroup is one subgroup of 8: lane l holds rows
// l + 8i of A, four terms at a time, and columns 4l.. of B and C.
@compute @workgroup_size(8)
fn multiply(
    @builtin(workgroup_id) workgroup: vec3u,
    @builtin(num_workgroups) workgroups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = (params.k_end - params.k_first + 3u) / 4u;
    let panel_a = (workgroup.z * workgroups.x + workgroup.x) * quads * 32u + lane;
    let panel_b = (workgroup.z * workgroups.y + workgroup.y) * quads * 32u + lane;
    //# for i in 0..4
    //# for l in 0..8
    var sum$i_$l = vec4f();
    //# end
    //# end
    for (var quad = 0u; quad < quads; quad++) {
        //# for i in 0..4
        let a$i = panels_a[panel_a + quad * 32u + $i * 8u];
        //# end
        //# for t in 0..4
        {
            let b = panels_b[panel_b + quad * 32u + $t * 8u];
            //# for i in 0..4
            //# for l in 0..8
            sum$i_$l = fma(vec4f(subgroupBroadcast(a$i[$t], ${l}u)), b, sum$i_$l);
            //# end
            //# end
        }
        //# end
    }
    var sums: array<vec4f, 32>;
    //# for i in 0..4
    //# for l in 0..8
    sums[$i * 8u + $l] = sum$i_$l;
    //# end
    //# end
    let base = params.c_first + workgroup.z * params.c_group;
    let m_first = workgroup.x * 32u;
    let rows = min(32u, params.m - m_first);
    //# for j in 0..4
    {
        let n = params.n_first + workgroup.y * 32u + lane * 4u + $j;
        if (n < params.n) {
            let column = base + (n / params.c_inner) * params.c_outer + n % params.c_inner + m_first * params.c_row;
            for (var row = 0u; row < rows; row++) {
                store_c(column + row * params.c_row, sums[row][$j]);
            }
        }
    }
    //# end
}
