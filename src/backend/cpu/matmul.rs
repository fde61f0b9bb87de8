//! Matrix products on slices: a checked front of the `gemm-f32` crate, and the only unsafe code beside [`super::simd`].

use gemm_common::Parallelism;
use gemm_f32::gemm::f32::get_gemm_fn;

/// A matrix in a slice, element (i, j) at `i * strides[0] + j * strides[1]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// A row-major matrix, `row` elements from one row to the next.
    pub fn rows(data: &'a [f32], shape: [usize; 2], row: usize) -> Self {
        Matrix { data, shape, strides: [row, 1] }
    }

    /// The same elements, transposed.
    pub fn t(self) -> Self {
        let ([m, n], [row, column]) = (self.shape, self.strides);
        Matrix { data: self.data, shape: [n, m], strides: [column, row] }
    }
}

/// c = a b, or c += a b; c is row-major of a.rows x b.columns, `row` elements from one row to the next. `threads` as the caller has
/// free ones. The order of each element's sum depends on the shapes only.
///
/// # Panics
/// When the shapes do not fit together or reach beyond the slices.
pub(super) fn matmul(c: &mut [f32], row: usize, a: Matrix, b: Matrix, accumulate: bool, threads: usize) {
    let ([m, k], [inner, n]) = (a.shape, b.shape);
    assert_eq!(k, inner, "inner extents");
    let fits = |len: usize, shape: [usize; 2], strides: [usize; 2]| {
        shape.contains(&0) || (shape[0] - 1) * strides[0] + (shape[1] - 1) * strides[1] < len
    };
    assert!(fits(c.len(), [m, n], [row, 1]) && (row >= n || m <= 1), "c");
    assert!(fits(a.data.len(), a.shape, a.strides) && fits(b.data.len(), b.shape, b.strides), "a or b");
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: every element that the shapes and strides reach lies within its slice (checked above); rows of c do not overlap;
    // c is borrowed exclusively, so neither a nor b shares memory with it.
    // The kernels write columns: so this is c^T = b^T a^T.
    unsafe {
        get_gemm_fn()(
            n,
            m,
            k,
            c.as_mut_ptr(),
            row as isize,
            1,
            accumulate,
            b.data.as_ptr(),
            b.strides[0] as isize,
            b.strides[1] as isize,
            a.data.as_ptr(),
            a.strides[0] as isize,
            a.strides[1] as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
