//! Ten views of each picture: its four corners and its centre, and their mirror images (the 2012 paper, section 4.1).

use crate::data::Batch;
use crate::error::{Error, Result};
use crate::tensor::{Data, Tensor};

/// Views of a picture.
pub(super) const VIEWS: usize = 10;

/// View `n` of each picture of a batch, `seen` = `[h, w]` large.
///
/// # Errors
/// When the pictures are smaller than that.
pub(super) fn view(batch: &Batch, n: usize, seen: [usize; 2]) -> Result<Batch> {
    let shape = batch.pictures.shape();
    let (pictures, stored) = (shape[0], [shape[1], shape[2]]);
    let place = place(n, stored, seen)?;
    let mut pixels = Vec::with_capacity(pictures * seen[0] * seen[1] * 3);
    for picture in batch.pictures.bytes().as_chunks::<3>().0.chunks(stored[0] * stored[1]) {
        cut(picture, n, place, stored[1], seen, |pixel| pixels.extend(pixel));
    }
    let pictures = Tensor::new([pictures, seen[0], seen[1], 3], Data::U8(pixels)).map_err(Error::input)?;
    Ok(Batch { pictures, labels: batch.labels.clone(), items: batch.items.clone(), count: batch.count })
}

/// The same view of a mean image, f32 `[3, H, W]`.
///
/// # Errors
/// When it is smaller than that.
pub(super) fn view_of_mean(image: &Tensor, n: usize, seen: [usize; 2]) -> Result<Tensor> {
    let stored = [image.shape()[1], image.shape()[2]];
    let place = place(n, stored, seen)?;
    let mut values = Vec::with_capacity(3 * seen[0] * seen[1]);
    for plane in image.as_f32().unwrap_or_default().chunks(stored[0] * stored[1]) {
        cut(plane, n, place, stored[1], seen, |&value| values.push(value));
    }
    Tensor::f32([3, seen[0], seen[1]], values).map_err(Error::input)
}

/// Top and left of view `n`.
fn place(n: usize, stored: [usize; 2], seen: [usize; 2]) -> Result<[usize; 2]> {
    let smaller = || Error::input(format!("ten crops of {seen:?} pixels need larger pictures than {stored:?}"));
    let [down, right] =
        [stored[0].checked_sub(seen[0]).ok_or_else(smaller)?, stored[1].checked_sub(seen[1]).ok_or_else(smaller)?];
    Ok([[0, 0], [0, right], [down, 0], [down, right], [down / 2, right / 2]][n % 5])
}

/// Hands `each` the pixels of view `n` of a picture that is `width` wide, row by row.
fn cut<T>(picture: &[T], n: usize, [top, left]: [usize; 2], width: usize, seen: [usize; 2], mut each: impl FnMut(&T)) {
    for row in top..top + seen[0] {
        let row = &picture[row * width + left..][..seen[1]];
        match n < 5 {
            true => row.iter().for_each(&mut each),
            false => row.iter().rev().for_each(&mut each),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_centre_and_their_mirror_images() {
        // A picture of 3 x 4 whose red is its place: row * 10 + column.
        let pixels = (0..12).flat_map(|place| [place / 4 * 10 + place % 4, 0, 7]).collect();
        let batch = Batch {
            pictures: Tensor::new([1, 3, 4, 3], Data::U8(pixels)).unwrap(),
            labels: Tensor::u32([1], vec![1]).unwrap(),
            items: vec![Some(0)],
            count: 1,
        };
        let red = |n: usize| -> Vec<u8> {
            view(&batch, n, [2, 2]).unwrap().pictures.bytes().chunks(3).map(|pixel| pixel[0]).collect()
        };
        let expected = [[0, 1, 10, 11], [2, 3, 12, 13], [10, 11, 20, 21], [12, 13, 22, 23], [1, 2, 11, 12]];
        for (n, [a, b, c, d]) in expected.into_iter().enumerate() {
            assert_eq!((red(n), red(n + 5)), (vec![a, b, c, d], vec![b, a, d, c]), "view {n}");
        }
        assert!(view(&batch, 0, [4, 4]).is_err());
        let planes = (0..36).map(|at| (at % 12 / 4 * 10 + at % 4) as f32).collect();
        let image = Tensor::f32([3, 3, 4], planes).unwrap();
        for n in 0..VIEWS {
            let plane = red(n).into_iter().map(f32::from);
            let expected: Vec<f32> = (0..3).flat_map(|_| plane.clone()).collect();
            assert_eq!(view_of_mean(&image, n, [2, 2]).unwrap().as_f32().unwrap(), expected, "view {n}");
        }
    }
}
