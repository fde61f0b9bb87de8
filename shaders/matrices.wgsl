// Matrices that the invocations of a subgroup hold together and multiply at once, and their ways through workgroup memory
// (<https://registry.khronos.org/vulkan/specs/latest/man/html/VK_KHR_cooperative_matrix.html>). To be
// included first: what a shader enables comes before all else. All of a subgroup call these functions with the same arguments.

enable wgpu_cooperative_matrix;

//!include real

// Terms of a step: of a row of A, of a column of B.
const TERMS: u32 = 16;

//# for size in 8 16
alias MatrixA_$size = coop_mat${size}x$size<real, A>;
alias MatrixB_$size = coop_mat${size}x$size<real, B>;
alias MatrixC_$size = coop_mat${size}x$size<f32, C>;

// Sums on their way: a matrix, row by row, of each of four subgroups, and one of those that idle.
var<workgroup> sums_$size: array<f32, 5 * $size * $size>;

fn load_c_$size(at: u32) -> MatrixC_$size {
    return coopLoadT<MatrixC_$size>(&sums_$size[at], ${size}u);
}

fn store_c_$size(c: MatrixC_$size, at: u32) {
    coopStoreT(c, &sums_$size[at], ${size}u);
}

//# for count in 2 4
// [rows or columns of the tile][TERMS]
var<workgroup> a_${size}_$count: array<real, 2 * $count * $size * TERMS>;
var<workgroup> b_${size}_$count: array<real, 2 * $count * $size * TERMS>;

fn load_a_${size}_$count(at: u32) -> MatrixA_$size {
    return coopLoadT<MatrixA_$size>(&a_${size}_$count[at], TERMS);
}

// A column's terms lie side by side.
fn load_b_${size}_$count(at: u32) -> MatrixB_$size {
    return coopLoad<MatrixB_$size>(&b_${size}_$count[at], TERMS);
}

fn multiply_add_${size}_$count(a: MatrixA_$size, b: MatrixB_$size, c: MatrixC_$size) -> MatrixC_$size {
    return coopMultiplyAdd(a, b, c);
}
//# end
//# end
