// Convolution and both of its gradients as one implicit matrix product per group,
//
//     C[m, n] (+)= sum over k of A[m, k] * B[k, n].
//
//                    m    k          n          A                B                          C
//   forward          o    (c, r, s)  (n, p, q)  w [O, C, R, S]   x at p*stride + r*dilation  y [N, O, P, Q]
//   backward input   c    (o, r, s)  (n, h, w)  w [O, C, R, S]   dy at (h - r*dilation) / stride   dx [N, C, H, W]
//   backward weight  o    (n, p, q)  (c, r, s)  dy [N, O, P, Q]  x at p*stride + r*dilation  dw [O, C, R, S]
//
// The three differ only in strides, so that the host says by uniforms which one a dispatch is. Here is where the terms are, and where
// the sums go; what multiplies them includes this.

//!include real
//!include epilogue

struct Params {
    // Extents of C per group, the first column of this dispatch, and the range of k that it sums.
    m: u32,
    n: u32,
    n_first: u32,
    k_first: u32,
    k_end: u32,

    // A[m, k] = a[a_first + group*a_group + m*a_row + (k / a_inner)*a_outer + k % a_inner]
    a_first: u32,
    a_group: u32,
    a_row: u32,
    a_outer: u32,
    a_inner: u32,
    // What A and B are multiplied by where they are held in 16-bit floats.
    a_scale: f32,
    b_scale: f32,

    // C[m, n] = c[c_first + group*c_group + m*c_row + (n / c_inner)*c_outer + n % c_inner]
    c_first: u32,
    c_group: u32,
    c_row: u32,
    c_outer: u32,
    c_inner: u32,
    // Add to what C holds instead of overwriting it.
    accumulate: u32,

    // The range of k is cut into `parts` of `part` terms; part i goes i*c_part elements further on.
    part: u32,
    parts: u32,
    c_part: u32,

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

    // Of C's elements, see epilogue.wgsl.
    bias_channels: vec4u,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;

fn store_c(at: u32, sum: f32, group: u32, m: u32, n: u32) {
    var value = sum;
    if (params.accumulate != 0u) {
        value += c[at];
    }
    c[at] = finished(value, params.bias_channels, group, m, n);
}

// Terms from k to k_end, of a row or column of C; none of one outside of it.
fn terms_left(stored: bool, k: u32, k_end: u32) -> u32 {
    return select(0u, max(k, k_end) - k, stored);
}

// Row m of A, read term by term.
struct WalkA {
    address: u32,
    inner: u32,
    left: u32,
}

fn start_a(group: u32, m: u32, k: u32, k_end: u32) -> WalkA {
    let base = params.a_first + group * params.a_group + m * params.a_row;
    let inner = k % params.a_inner;
    let left = terms_left(m < params.m, k, k_end);
    return WalkA(base + (k / params.a_inner) * params.a_outer + inner, inner, left);
}

fn next_a(walk: ptr<function, WalkA>) -> f32 {
    if ((*walk).left == 0u) {
        return 0.0;
    }
    (*walk).left -= 1u;
    let value = a[(*walk).address];
    (*walk).address += 1u;
    (*walk).inner += 1u;
    if ((*walk).inner == params.a_inner) {
        (*walk).inner = 0u;
        (*walk).address += params.a_outer - params.a_inner;
    }
    return value;
}

// Column n of B, read term by term.
struct WalkB {
    base: u32,
    origin: vec2i,
    place: vec2i,
    term: vec2u,
    left: u32,
}

fn start_b(group: u32, n: u32, k: u32, k_end: u32) -> WalkB {
    let columns = params.column_grid.x * params.column_grid.y;
    let column = vec2u((n % columns) / params.column_grid.y, n % params.column_grid.y);
    let terms = params.term_grid.x * params.term_grid.y;
    let term = vec2u((k % terms) / params.term_grid.y, k % params.term_grid.y);
    let origin = params.origin + vec2i(column) * params.column_step;
    let base = params.b_first + group * params.b_group + (n / columns) * params.b_column + (k / terms) * params.b_term;
    let left = terms_left(n < params.n, k, k_end);
    return WalkB(base, origin, origin + vec2i(term) * params.term_step, term, left);
}

fn next_b(walk: ptr<function, WalkB>) -> f32 {
    if ((*walk).left == 0u) {
        return 0.0;
    }
    (*walk).left -= 1u;
    var place = vec2u((*walk).place);
    var exact = true;
    if (any(params.divisor != vec2u(1u))) {
        // A negative place becomes 2^31 or more, and stays outside: no picture is so large, and no divisor so small but 1.
        exact = all((*walk).place >= vec2i(0)) && all(place % params.divisor == vec2u(0u));
        place /= params.divisor;
    }
    var value = 0.0;
    if (exact && all(place < params.image)) {
        value = b[(*walk).base + place.x * params.image.y + place.y];
    }
    (*walk).term.y += 1u;
    (*walk).place.y += params.term_step.y;
    if ((*walk).term.y == params.term_grid.y) {
        (*walk).term.y = 0u;
        (*walk).place.y = (*walk).origin.y;
        (*walk).term.x += 1u;
        (*walk).place.x += params.term_step.x;
        if ((*walk).term.x == params.term_grid.x) {
            (*walk).term.x = 0u;
            (*walk).place.x = (*walk).origin.x;
            (*walk).base += params.b_term;
        }
    }
    return value;
}

// Terms per step through workgroup memory, in vec4s.
const DEPTH: u32 = 4;

// The next step's terms of a row of A.
fn fetch_a(walk: ptr<function, WalkA>) -> array<vec4f, DEPTH> {
    var terms: array<vec4f, DEPTH>;
    //# for d in 0..4
    {
        let t0 = next_a(walk);
        let t1 = next_a(walk);
        let t2 = next_a(walk);
        let t3 = next_a(walk);
        terms[$d] = vec4f(t0, t1, t2, t3);
    }
    //# end
    return terms;
}

// The same of a column of B.
fn fetch_b(walk: ptr<function, WalkB>) -> array<vec4f, DEPTH> {
    var terms: array<vec4f, DEPTH>;
    //# for d in 0..4
    {
        let t0 = next_b(walk);
        let t1 = next_b(walk);
        let t2 = next_b(walk);
        let t3 = next_b(walk);
        terms[$d] = vec4f(t0, t1, t2, t3);
    }
    //# end
    return terms;
}
