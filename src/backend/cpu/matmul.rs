//! Matrix products on slices: the one kernel behind convolutions and fully connected layers, and the only unsafe code beside
//! [`super::simd`].
//!
//! Tiles of 6 x 16 sums stay in registers (12 of the 16 vectors that AVX2 has) while the kernel walks down k: two vectors of a row of
//! b, and six numbers of a, each of which it multiplies with both. The rows of b that a tile needs stay in the L1 cache from one
//! tile to the next below it, as long as they do not fall into the same sets of it ([`row_length`]). Nothing is packed here: who
//! makes a large b writes it in [`Panels`] at once, so that it comes from memory in the order in which it lies there. (Goto, van de
//! Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".)

use rayon::prelude::*;

use super::simd::{LANES, each, fused_lanes, lanes, vectorised};

/// Rows of a tile.
const ROWS: usize = 6;

/// Columns of a tile, and of a panel.
pub(super) const COLUMNS: usize = 2 * LANES;

/// Rows of b that are added up at a time: 16 columns of them fill an L1 cache of 32 KiB.
const DEPTH: usize = 384;

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

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Whether every element lies within the slice.
    fn fits(&self) -> bool {
        self.shape.contains(&0)
            || (self.shape[0] - 1) * self.strides[0] + (self.shape[1] - 1) * self.strides[1] < self.data.len()
    }
}

/// A matrix in a slice, cut into panels of [`COLUMNS`] columns: element (i, j) at `j / COLUMNS * panel + i * row + j % COLUMNS`.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    data: &'a [f32],
    shape: [usize; 2],
    row: usize,
    panel: usize,
}

impl<'a> Panels<'a> {
    /// A row-major matrix, `row` elements from one row to the next.
    pub fn rows(data: &'a [f32], shape: [usize; 2], row: usize) -> Self {
        Panels { data, shape, row, panel: COLUMNS }
    }

    /// Panels one after the other, each row-major, and the last one as wide as the others: its other columns may hold anything.
    pub fn packed(data: &'a [f32], shape: [usize; 2]) -> Self {
        Panels { data, shape, row: COLUMNS, panel: shape[0] * COLUMNS }
    }

    /// The first rows.
    pub fn top(self, rows: usize) -> Self {
        Panels { shape: [rows, self.shape[1]], ..self }
    }

    /// Whether panel `j / COLUMNS` has all its columns.
    fn whole(&self, j: usize) -> bool {
        self.shape[1] - j >= COLUMNS || self.row == COLUMNS
    }

    /// Whether every element lies within the slice.
    fn fits(&self) -> bool {
        let [rows, columns] = self.shape;
        let last = columns.saturating_sub(1) / COLUMNS * COLUMNS;
        let width = if self.whole(last) { COLUMNS } else { columns - last };
        rows * columns == 0 || last / COLUMNS * self.panel + (rows - 1) * self.row + width <= self.data.len()
    }
}

/// A length for the rows of a matrix of so many columns that is read in tiles: an odd number of cache lines, so that neighbouring
/// rows fall into different sets of the cache.
pub(super) const fn row_length(columns: usize) -> usize {
    const LINE: usize = 16;
    (columns.div_ceil(LINE) | 1) * LINE
}

/// c = a b, or c += a b. c is row-major of a.rows x b.columns, `row` elements from one row to the next. The order of each
/// element's sum depends on the shapes only.
///
/// # Panics
/// When the shapes do not fit together or reach beyond the slices.
pub(super) fn matmul(c: &mut [f32], row: usize, a: Matrix, b: Panels, accumulate: bool) {
    let ([m, k], [inner, n]) = (a.shape, b.shape);
    assert_eq!(k, inner, "inner extents");
    assert!(a.fits() && b.fits(), "a or b");
    assert!(m * n == 0 || ((m - 1) * row + n <= c.len() && (row >= n || m == 1)), "c");
    blocks(c, row, a, b, accumulate);
}

/// [`matmul`] on the threads of the pool, each with `rows` rows of c at a time.
pub(super) fn matmul_by_rows(c: &mut [f32], row: usize, a: Matrix, b: Panels, rows: usize) {
    let [m, k] = a.shape;
    c.par_chunks_mut(rows * row).enumerate().take(m.div_ceil(rows)).for_each(|(i, c)| {
        let shape = [rows.min(m - i * rows), k];
        let a = Matrix { data: &a.data[i * rows * a.strides[0]..], shape, strides: a.strides };
        matmul(c, row, a, b, false);
    });
}

vectorised! {
    fn blocks(c: &mut [f32], row: usize, a: Matrix, b: Panels, accumulate: bool) {
        let ([m, k], n) = (a.shape, b.shape[1]);
        if k == 0 && !accumulate {
            (0..m).for_each(|i| c[i * row..][..n].fill(0.0));
        }
        // The columns that are left on the right, in rows of a tile.
        let mut right = [0.0; DEPTH * COLUMNS];
        for first in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - first);
            let a_at = |i: usize| &a.data[i * a.strides[0] + first * a.strides[1]..];
            for j in (0..n).step_by(COLUMNS) {
                let columns = COLUMNS.min(n - j);
                let from = &b.data[j / COLUMNS * b.panel + first * b.row..];
                let b = if b.whole(j) {
                    Panels { data: from, shape: [depth, COLUMNS], ..b }
                } else {
                    for (t, right) in right.chunks_exact_mut(COLUMNS).enumerate().take(depth) {
                        right[..columns].copy_from_slice(&from[t * b.row..][..columns]);
                    }
                    Panels::packed(&right, [depth, COLUMNS])
                };
                let mut i = 0;
                while i < m {
                    let (rows, strides) = (ROWS.min(m - i), a.strides);
                    let a = Matrix { data: a_at(i), shape: [rows, depth], strides };
                    let c = &mut c[i * row + j..];
                    let accumulate = accumulate || first > 0;
                    match rows {
                        1 => tile::<FMA, 1>(c, row, columns, a, b, accumulate),
                        2 => tile::<FMA, 2>(c, row, columns, a, b, accumulate),
                        3 => tile::<FMA, 3>(c, row, columns, a, b, accumulate),
                        4 => tile::<FMA, 4>(c, row, columns, a, b, accumulate),
                        5 => tile::<FMA, 5>(c, row, columns, a, b, accumulate),
                        _ => tile::<FMA, ROWS>(c, row, columns, a, b, accumulate),
                    }
                    i += rows;
                }
            }
        }
    }
}

/// `columns` of c = a b or c += a b, of R rows of a and [`COLUMNS`] columns of b.
#[inline(always)]
fn tile<const FMA: bool, const R: usize>(
    c: &mut [f32],
    row: usize,
    columns: usize,
    a: Matrix,
    b: Panels,
    accumulate: bool,
) {
    debug_assert!(a.fits() && b.fits() && a.shape[0] == R && b.shape == [a.shape[1], COLUMNS]);
    let mut sums = [[[0.0; LANES]; 2]; R];
    let (mut a_t, mut b_t) = (a.data.as_ptr(), b.data.as_ptr().cast::<[[f32; LANES]; 2]>());
    for _ in 0..a.shape[1] {
        // SAFETY: a and b hold R and COLUMNS elements of each of these rows: `matmul` has checked that every element that their
        // shapes and strides reach lies within its slice. The pointers move past the last row, but are not read there.
        unsafe {
            let row = *b_t;
            for (i, sums) in sums.iter_mut().enumerate() {
                let element = [*a_t.add(i * a.strides[0]); LANES];
                sums[0] = fused_lanes::<FMA>(element, row[0], sums[0]);
                sums[1] = fused_lanes::<FMA>(element, row[1], sums[1]);
            }
            a_t = a_t.wrapping_add(a.strides[1]);
            b_t = b_t.wrapping_byte_add(b.row * size_of::<f32>());
        }
    }
    for (i, [left, right]) in sums.into_iter().enumerate() {
        let c = &mut c[i * row..];
        // By value: sums whose address is taken would live in memory, in the loop above too.
        let sums: [f32; COLUMNS] = lanes(0.0, |j| if j < LANES { left[j] } else { right[j - LANES] });
        // A loop of known length for whole tiles.
        let c = if columns == COLUMNS { &mut c[..COLUMNS] } else { &mut c[..columns] };
        each(c, &sums, |c, sum| *c = if accumulate { *c + sum } else { *sum });
    }
}
