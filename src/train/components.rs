//! The principal components of the colours of pictures (the 2012 paper, section 4.1).

use crate::data::{Batch, Loader};
use crate::error::Result;

/// The principal components of all pixels of a loader's pictures in [0, 1]: in column k the k-th, as long as the deviation along it, the
/// longest first; the largest number of each is positive. `done` is told of each batch and says whether to go on; `None` if it did not.
///
/// The sums are whole numbers, so they do not depend on the order.
///
/// # Errors
/// The loader's.
pub fn components(loader: &Loader, mut done: impl FnMut(&Batch) -> bool) -> Result<Option<[[f64; 3]; 3]>> {
    let (mut n, mut sum, mut product) = (0_u64, [0_u64; 3], [[0_u64; 3]; 3]);
    for batch in loader.batches() {
        let batch = batch?;
        let row = batch.pictures.bytes().len() / batch.items.len().max(1);
        let pictures = batch.pictures.bytes().chunks(row).zip(batch.there());
        for pixel in pictures.filter(|(_, there)| *there).flat_map(|(picture, _)| picture.as_chunks::<3>().0) {
            let pixel = pixel.map(u64::from);
            n += 1;
            for c in 0..3 {
                sum[c] += pixel[c];
                (c..3).for_each(|d| product[c][d] += pixel[c] * pixel[d]);
            }
        }
        let going = done(&batch);
        loader.recycle(batch);
        if !going {
            return Ok(None);
        }
    }
    let mean = sum.map(|sum| sum as f64 / n.max(1) as f64);
    let covariance = std::array::from_fn(|c| {
        std::array::from_fn(|d| {
            (product[c.min(d)][c.max(d)] as f64 / n.max(1) as f64 - mean[c] * mean[d]) / (255.0 * 255.0)
        })
    });
    Ok(Some(principal(covariance)))
}

/// The components of a covariance, by Jacobi's rotations.
fn principal(mut a: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    let mut vectors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    for _ in 0..20 {
        for (p, q) in [(0, 1), (0, 2), (1, 2)] {
            if a[p][q] == 0.0 {
                continue;
            }
            let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
            let tan = if theta < 0.0 { -1.0 } else { 1.0 } / (theta.abs() + theta.hypot(1.0));
            let cos = 1.0 / tan.hypot(1.0);
            let sin = tan * cos;
            // a = Jt a J, vectors = vectors J, with J the rotation in the plane of p and q.
            let rotate =
                |row: &mut [f64; 3]| (row[p], row[q]) = (cos * row[p] - sin * row[q], sin * row[p] + cos * row[q]);
            a.iter_mut().for_each(rotate);
            let (upper, lower) = (a[p], a[q]);
            for k in 0..3 {
                (a[p][k], a[q][k]) = (cos * upper[k] - sin * lower[k], sin * upper[k] + cos * lower[k]);
            }
            vectors.iter_mut().for_each(rotate);
        }
    }
    let mut order = [0, 1, 2];
    order.sort_by(|&j, &k| a[k][k].total_cmp(&a[j][j]));
    let column = |k: usize| {
        let vector = vectors.map(|row| row[k]);
        let largest = vector.iter().copied().fold(0.0, |most: f64, v| if v.abs() > most.abs() { v } else { most });
        vector.map(|v| v * largest.signum() * a[k][k].max(0.0).sqrt())
    };
    let columns = order.map(column);
    std::array::from_fn(|c| std::array::from_fn(|k| columns[k][c]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_make_up_the_covariance() {
        for covariance in [
            [[0.08, 0.07, 0.06], [0.07, 0.075, 0.065], [0.06, 0.065, 0.09]],
            [[0.04, 0.0, 0.0], [0.0, 0.09, 0.0], [0.0, 0.0, 0.01]],
            [[0.5; 3]; 3],
            [[0.0; 3]; 3],
        ] {
            let v = principal(covariance);
            for (c, d) in (0..3).flat_map(|c| (0..3).map(move |d| (c, d))) {
                let product: f64 = (0..3).map(|k| v[c][k] * v[d][k]).sum();
                assert!((product - covariance[c][d]).abs() < 1e-12, "{c}, {d}: {v:?}");
                let between: f64 = (0..3).map(|row| v[row][c] * v[row][d]).sum();
                assert!(c == d || between.abs() < 1e-9, "columns {c} and {d}: {v:?}");
            }
            let length = |k: usize| (0..3).map(|c| v[c][k] * v[c][k]).sum::<f64>();
            assert!(length(0) >= length(1) && length(1) >= length(2), "{v:?}");
        }
        assert_eq!(principal([[0.04, 0.0, 0.0], [0.0, 0.09, 0.0], [0.0, 0.0, 0.01]])[1], [0.3, 0.0, 0.0]);
    }
}
