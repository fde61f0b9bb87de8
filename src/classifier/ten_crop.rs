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
    let smaller = || Error::input(format!("ten crops of {seen:?} pixels need larger pictures than {stored:?}"));
    let [room_down, room_right] =
        [stored[0].checked_sub(seen[0]).ok_or_else(smaller)?, stored[1].checked_sub(seen[1]).ok_or_else(smaller)?];
    let (top, left) = match n % 5 {
        0 => (0, 0),
        1 => (0, room_right),
        2 => (room_down, 0),
        3 => (room_down, room_right),
        _ => (room_down / 2, room_right / 2),
    };
    let mut pixels = Vec::with_capacity(pictures * seen[0] * seen[1] * 3);
    for picture in batch.pictures.bytes().chunks(stored[0] * stored[1] * 3) {
        for row in top..top + seen[0] {
            let row = &picture[(row * stored[1] + left) * 3..][..seen[1] * 3];
            match n < 5 {
                true => pixels.extend_from_slice(row),
                false => pixels.extend(row.as_chunks::<3>().0.iter().rev().flatten()),
            }
        }
    }
    let pictures = Tensor::new([pictures, seen[0], seen[1], 3], Data::U8(pixels)).map_err(Error::input)?;
    Ok(Batch { pictures, labels: batch.labels.clone(), items: batch.items.clone(), count: batch.count })
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
    }
}
