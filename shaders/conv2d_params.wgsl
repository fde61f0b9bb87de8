// What the kernels of conv2d.wgsl and conv2d_packed.wgsl share.

struct Params {
    // Extents of C in this dispatch, per group, and the range of k that it sums.
    m: u32,
    n: u32,
    k_first: u32,
    k_end: u32,

    // A[m, k] = a[a_first + group*a_group + m*a_row + (k / a_inner)*a_outer + k % a_inner]
    a_first: u32,
    a_group: u32,
    a_row: u32,
    a_outer: u32,
    a_inner: u32,

    // C[m, n] = c[c_first + group*c_group + m*c_row + (n / c_inner)*c_outer + n % c_inner]
    c_first: u32,
    c_group: u32,
    c_row: u32,
    c_outer: u32,
    c_inner: u32,
    // Add to what C holds instead of overwriting it.
    accumulate: u32,

    // `tile`: k is cut into `splits` ranges of `split` terms; range i goes `i * split_stride` elements further on.
    split: u32,
    splits: u32,
    split_stride: u32,

    // B[k, n]: with n = (i, column) and k = (j, term), column and term being places on grids of these extents, the element
    // at b[b_first + group*b_group + i*b_column + j*b_term] of a picture of extent `image`, at
    // (origin + column*column_step + term*term_step) / divisor; 0 where that is outside or not a whole number.
    b_first: u32,
    b_group: u32,
    b_column: u32,
    b_term: u32,
    image: vec2u,
    column_grid: vec2u,
    term_grid: vec2u,
    divisor: vec2u,
    origin: vec2i,
    column_step: vec2i,
    term_step: vec2i,

    // Packed panels: the first column, and how many terms (a multiple of 4) an invocation packs.
    n_first: u32,
    run: u32,
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

// Texel i of a texture that holds packed panels row by row.
fn panel_texel(i: u32) -> vec2u {
    return vec2u(i % 4096u, i / 4096u);
}
