// Sums over terms that lie between texels: a texel of A is four rows of one term, a texel of B four columns of one term.

//!include texel

@group(0) @binding(1) var a: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var b: texture_storage_2d<rgba32float, read>;

// Place of item i of a row-major grid [.., grid.x, grid.y], its three indices `steps` texels apart.
fn place(i: u32, grid: vec2u, steps: vec3u) -> u32 {
    let j = i / grid.y;
    return (j / grid.x) * steps.x + (j % grid.x) * steps.y + (i % grid.y) * steps.z;
}

// Goes through the items of such a grid without divisions.
struct Walk {
    at: u32,
    item: vec2u,
}

fn start(i: u32, grid: vec2u, steps: vec3u) -> Walk {
    return Walk(place(i, grid, steps), vec2u((i / grid.y) % grid.x, i % grid.y));
}

// `count` items further on.
struct Stride {
    grid: vec2u,
    // Within the grid, and texels.
    by: vec2u,
    texels: u32,
    // Texels more where an index begins anew.
    wrap: vec2u,
}

fn stride(count: u32, grid: vec2u, steps: vec3u) -> Stride {
    let wrap = vec2u(steps.x - grid.x * steps.y, steps.y - grid.y * steps.z);
    return Stride(grid, vec2u((count / grid.y) % grid.x, count % grid.y), place(count, grid, steps), wrap);
}

fn next(walk: Walk, stride: Stride) -> Walk {
    var item = walk.item + stride.by;
    let over_y = item.y >= stride.grid.y;
    item.x += select(0u, 1u, over_y);
    let over_x = item.x >= stride.grid.x;
    item -= select(vec2u(), stride.grid, vec2<bool>(over_x, over_y));
    let at = walk.at + stride.texels + select(0u, stride.wrap.x, over_x) + select(0u, stride.wrap.y, over_y);
    return Walk(at, item);
}

struct Lines {
    // The first term and their number.
    first: u32,
    terms: u32,
    term_grid: vec2u,
    a_steps: vec3u,
    b_steps: vec3u,
}

// The workgroup's sixteen rows of the lane's four columns: first texels of A, four of the rows' by lane % 4, and of B. (Not in
// `Lines`, which is the same for all lanes: subgroup operations want that of all that a loop depends on.)
fn sum_lines(lines: Lines, a_first: u32, b_first: u32, lane: u32) -> array<vec4f, 16> {
    // Lanes 4 to 7 read the term after that of lanes 0 to 3.
    let early = lane / 4u;
    var walk_a = start(lines.first + early, lines.term_grid, lines.a_steps);
    var walk_b = start(lines.first, lines.term_grid, lines.b_steps);
    let stride_a = stride(2u, lines.term_grid, lines.a_steps);
    let stride_b = stride(1u, lines.term_grid, lines.b_steps);
    //# for r in 0..4
    //# for i in 0..4
    //# for j in 0..4
    var sum${r}_${i}_$j = 0.0;
    //# end
    //# end
    //# end
    for (var k = 0u; k < lines.terms; k += 4u) {
        //# for t in 0..2
        var a$t = textureLoad(a, texel(a_first + walk_a.at));
        a$t = select(vec4f(), a$t, k + $t * 2u + early < lines.terms);
        walk_a = next(walk_a, stride_a);
        //# end
        //# for t in 0..4
        var b$t = textureLoad(b, texel(b_first + walk_b.at));
        b$t = select(vec4f(), b$t, k + $t < lines.terms);
        walk_b = next(walk_b, stride_b);
        //# end
        //# for r in 0..4
        //# for i in 0..4
        {
            let t0 = subgroupBroadcast(a0[$i], ${r}u);
            let t1 = subgroupBroadcast(a0[$i], ${r}u + 4u);
            let t2 = subgroupBroadcast(a1[$i], ${r}u);
            let t3 = subgroupBroadcast(a1[$i], ${r}u + 4u);
            //# for j in 0..4
            sum${r}_${i}_$j = fma(t3, b3[$j], fma(t2, b2[$j], fma(t1, b1[$j], fma(t0, b0[$j], sum${r}_${i}_$j))));
            //# end
        }
        //# end
        //# end
    }
    var sums: array<vec4f, 16>;
    //# for r in 0..4
    //# for i in 0..4
    sums[$r * 4 + $i] = vec4f(sum${r}_${i}_0, sum${r}_${i}_1, sum${r}_${i}_2, sum${r}_${i}_3);
    //# end
    //# end
    return sums;
}
