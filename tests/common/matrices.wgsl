// In place of shaders/matrices.wgsl where a device multiplies no matrices: the same functions by sums of products. A matrix of factors
// is the place where it begins. One of sums lies in a subgroup, of 8 invocations or more, element by element in turn; it is changed in
// place, and is where its elements begin in each invocation. Drivers unroll loops whose ends they know, and would compile for minutes:
// no end is known here.

//!include real

const TERMS: u32 = 16;

var<private> matrices: u32;

//# for size in 8 16
// Sixteen matrices of 8x8, or four of 16x16: as many as a subgroup has at once, but for multiply_16_4.
var<private> elements_$size: array<f32, 128>;

alias MatrixA_$size = u32;
alias MatrixB_$size = u32;
alias MatrixC_$size = u32;

var<workgroup> sums_$size: array<f32, 5 * $size * $size>;

fn load_c_$size(at: u32) -> u32 {
    let lanes = subgroupAdd(1u);
    let c = matrices * ($size * $size / 8) % 128u;
    matrices += 1u;
    for (var i = 0u; i < $size * $size / lanes; i++) {
        elements_$size[c + i] = sums_$size[at + i * lanes + subgroupExclusiveAdd(1u)];
    }
    return c;
}

fn store_c_$size(c: u32, at: u32) {
    let lanes = subgroupAdd(1u);
    for (var i = 0u; i < $size * $size / lanes; i++) {
        sums_$size[at + i * lanes + subgroupExclusiveAdd(1u)] = elements_$size[c + i];
    }
}

//# for count in 2 4
var<workgroup> a_${size}_$count: array<real, 2 * $count * $size * TERMS>;
var<workgroup> b_${size}_$count: array<real, 2 * $count * $size * TERMS>;

fn load_a_${size}_$count(at: u32) -> u32 {
    return at;
}

fn load_b_${size}_$count(at: u32) -> u32 {
    return at;
}

fn multiply_add_${size}_$count(a: u32, b: u32, c: u32) -> u32 {
    let lanes = subgroupAdd(1u);
    for (var i = 0u; i < $size * $size / lanes; i++) {
        let element = i * lanes + subgroupExclusiveAdd(1u);
        let row = a + element / $size * TERMS;
        let column = b + element % $size * TERMS;
        var sum = elements_$size[c + i];
        for (var first = 0u; first < $size * min(lanes, 1u); first += 4u) {
            //# for t in 0..4
            sum += f32(a_${size}_$count[row + first + $t]) * f32(b_${size}_$count[column + first + $t]);
            //# end
        }
        elements_$size[c + i] = sum;
    }
    return c;
}
//# end
//# end
