//! What the paper's recipe asks of all training pictures: the principal components of their colours, and their mean (the 2012 paper,
//! sections 2 and 4.1).

use crate::data::{Batch, Loader};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// What is known of the pixels of all training pictures, in [0, 1].
#[derive(Clone, Debug)]
pub struct Statistics {
    /// In column k the k-th principal component of the colours, as long as its eigenvalue, the longest first; the largest number of each
    /// is positive.
    pub components: [[f64; 3]; 3],
    /// Mean at each place, f32 `[3, H, W]`.
    pub mean_image: Tensor,
}

impl Statistics {
    /// Looks at a loader's pictures, of `size` = `[H, W]`. `done` is told of each batch and says whether to go on; `None` if it did not.
    ///
    /// The sums are whole numbers, so they do not depend on the order.
    ///
    /// # Errors
    /// The loader's.
    pub fn of(loader: &Loader, size: [usize; 2], mut done: impl FnMut(&Batch) -> bool) -> Result<Option<Statistics>> {
        let [height, width] = size;
        let (mut pictures, mut sums, mut product) = (0_u64, vec![[0_u64; 3]; height * width], [[0_u64; 3]; 3]);
        for batch in loader.batches() {
            let batch = batch?;
            let rows = batch.pictures.bytes().chunks(height * width * 3).zip(batch.there());
            for (picture, _) in rows.filter(|(_, there)| *there) {
                pictures += 1;
                for (pixel, sum) in picture.as_chunks::<3>().0.iter().zip(&mut sums) {
                    let pixel = pixel.map(u64::from);
                    for c in 0..3 {
                        sum[c] += pixel[c];
                        (c..3).for_each(|d| product[c][d] += pixel[c] * pixel[d]);
                    }
                }
            }
            let going = done(&batch);
            loader.recycle(batch);
            if !going {
                return Ok(None);
            }
        }
        let n = (pictures * (height * width) as u64).max(1) as f64;
        let mean: [f64; 3] = std::array::from_fn(|c| sums.iter().map(|sum| sum[c]).sum::<u64>() as f64 / n);
        let covariance = std::array::from_fn(|c| {
            let entry = |d: usize| (product[c.min(d)][c.max(d)] as f64 / n - mean[c] * mean[d]) / (255.0 * 255.0);
            std::array::from_fn(entry)
        });
        let whole = 255.0 * pictures.max(1) as f64;
        let values = (0..3).flat_map(|c| sums.iter().map(move |sum| (sum[c] as f64 / whole) as f32)).collect();
        let mean_image = Tensor::f32([3, height, width], values).map_err(Error::device)?;
        Ok(Some(Statistics { components: principal(covariance), mean_image }))
    }
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
        vector.map(|v| v * largest.signum() * a[k][k].max(0.0))
    };
    let columns = order.map(column);
    std::array::from_fn(|c| std::array::from_fn(|k| columns[k][c]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Item, LoaderOptions, Resize};

    /// Of two pictures of 2 x 1 pixels: their mean at each place, and components of the covariance of all four pixels.
    #[test]
    fn statistics_are_of_all_pictures() {
        let dir = tempfile::tempdir().unwrap();
        let pixels: [[[u8; 3]; 2]; 2] = [[[10, 20, 30], [50, 60, 70]], [[30, 0, 50], [90, 80, 100]]];
        let item = |(n, [left, right]): (usize, [[u8; 3]; 2])| {
            let path = dir.path().join(format!("{n}.png"));
            image::RgbImage::from_raw(2, 1, [left, right].concat()).unwrap().save(&path).unwrap();
            Item { path, relative: n.to_string(), class: 0 }
        };
        let mut items: Vec<Item> = pixels.into_iter().enumerate().map(item).collect();
        items.push(Item { path: dir.path().join("none.png"), relative: "none".into(), class: 0 });
        let options = LoaderOptions { batch: 2, size: [1, 2], resize: Resize::Stretch, workers: 1 };
        let loader = Loader::new(items.into(), options);
        let Statistics { components, mean_image } = Statistics::of(&loader, [1, 2], |_| true).unwrap().unwrap();
        let means = [20.0, 70.0, 10.0, 70.0, 40.0, 85.0].map(|mean: f32| mean / 255.0);
        mean_image.as_f32().unwrap().iter().zip(means).for_each(|(got, mean)| assert!((got - mean).abs() < 1e-7));
        let all = pixels.concat();
        let mean = [45.0, 40.0, 62.5];
        let variance =
            |c: usize| all.iter().map(|pixel| ((pixel[c] as f64 - mean[c]) / 255.0).powi(2)).sum::<f64>() / 4.0;
        for c in 0..3 {
            let length = |k: usize| (0..3).map(|c| components[c][k].powi(2)).sum::<f64>().sqrt();
            let got: f64 = (0..3).filter(|&k| length(k) > 0.0).map(|k| components[c][k].powi(2) / length(k)).sum();
            assert!((got - variance(c)).abs() < 1e-12, "{c}: {got}");
        }
        assert!(Statistics::of(&loader, [1, 2], |_| false).unwrap().is_none());
    }

    #[test]
    fn components_make_up_the_covariance() {
        for covariance in [
            [[0.08, 0.07, 0.06], [0.07, 0.075, 0.065], [0.06, 0.065, 0.09]],
            [[0.04, 0.0, 0.0], [0.0, 0.09, 0.0], [0.0, 0.0, 0.01]],
            [[0.5; 3]; 3],
            [[0.0; 3]; 3],
        ] {
            let v = principal(covariance);
            let length = |k: usize| (0..3).map(|c| v[c][k] * v[c][k]).sum::<f64>().sqrt();
            for (c, d) in (0..3).flat_map(|c| (0..3).map(move |d| (c, d))) {
                let there = (0..3).filter(|&k| length(k) > 0.0);
                let product: f64 = there.map(|k| v[c][k] * v[d][k] / length(k)).sum();
                assert!((product - covariance[c][d]).abs() < 1e-12, "{c}, {d}: {v:?}");
                let between: f64 = (0..3).map(|row| v[row][c] * v[row][d]).sum();
                assert!(c == d || between.abs() < 1e-9, "columns {c} and {d}: {v:?}");
            }
            assert!(length(0) >= length(1) && length(1) >= length(2), "{v:?}");
        }
        assert_eq!(principal([[0.04, 0.0, 0.0], [0.0, 0.09, 0.0], [0.0, 0.0, 0.01]])[1], [0.09, 0.0, 0.0]);
    }
}
