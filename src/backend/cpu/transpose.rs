//! Transposes: pictures and gradients between channels first, as the graph has them, and channels last, so that loops over
//! channels are loops over vectors.

use super::simd::{LANES, load, store, transpose_lanes, vectorised};

vectorised! {
    /// to[j][i] = from[i][j] of matrices with `to_row` and `from_row` elements from one row to the next; `shape` is [rows, columns] of
    /// `from`.
    pub(super) fn transpose(to: &mut [f32], to_row: usize, from: &[f32], from_row: usize, shape: [usize; 2]) {
        let [rows, columns] = shape;
        if rows < LANES || columns < LANES {
            for i in 0..rows {
                for (j, &from) in from[i * from_row..][..columns].iter().enumerate() {
                    to[j * to_row + i] = from;
                }
            }
            return;
        }
        // The last blocks overlap the ones before rather than to be short.
        for i in (0..rows).step_by(LANES).map(|i| i.min(rows - LANES)) {
            for j in (0..columns).step_by(LANES).map(|j| j.min(columns - LANES)) {
                let mut block = [[0.0; LANES]; LANES];
                for k in 0..LANES {
                    block[k] = load(&from[(i + k) * from_row + j..]);
                }
                let block = transpose_lanes::<FMA>(block);
                for k in 0..LANES {
                    store(&mut to[(j + k) * to_row + i..], block[k]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_lands_in_its_place() {
        for [rows, columns] in [[1, 1], [3, 20], [20, 3], [8, 8], [9, 15], [16, 31]] {
            let (from_row, to_row) = (columns + 3, rows + 2);
            let from: Vec<f32> = (0..rows * from_row).map(|i| i as f32).collect();
            let mut to = vec![-1.0; columns * to_row];
            transpose(&mut to, to_row, &from, from_row, [rows, columns]);
            for (at, &to) in to.iter().enumerate() {
                let (j, i) = (at / to_row, at % to_row);
                assert_eq!(to, if i < rows { from[i * from_row + j] } else { -1.0 }, "{rows} x {columns}: ({i}, {j})");
            }
        }
    }
}
