//! The train/validation split: stratified, and a function of the seed and the files' relative paths alone.

use super::Item;
use crate::rng::{philox4x32, stream};

/// Divides `items` into (training, validation). Each class with two pictures or more has at least one on either side
/// and otherwise the `train_share` rounded to whole pictures; the order of `items` is kept and has no influence.
pub(super) fn split(items: Vec<Item>, train_share: f64, seed: u64) -> (Vec<Item>, Vec<Item>) {
    let classes = items.iter().map(|item| item.class as usize + 1).max().unwrap_or(0);
    let mut by_class: Vec<Vec<usize>> = vec![Vec::new(); classes];
    for (index, item) in items.iter().enumerate() {
        by_class[item.class as usize].push(index);
    }
    let mut validates = vec![false; items.len()];
    for mut members in by_class {
        // The path breaks the tie of two equal hashes, so that not even then the order of listing matters.
        members.sort_by_cached_key(|&i| (rank(seed, &items[i].relative), &items[i].relative));
        for &index in &members[..validation_count(members.len(), train_share)] {
            validates[index] = true;
        }
    }
    let (val, train): (Vec<_>, Vec<_>) = items.into_iter().zip(validates).partition(|(_, validates)| *validates);
    let items = |part: Vec<(Item, bool)>| part.into_iter().map(|(item, _)| item).collect();
    (items(train), items(val))
}

/// How many of `n` pictures of a class validate.
fn validation_count(n: usize, train_share: f64) -> usize {
    if n < 2 {
        return 0;
    }
    (((1.0 - train_share) * n as f64).round() as usize).clamp(1, n - 1)
}

/// A random number of the path: Philox keyed by the seed, chained over the path's bytes.
fn rank(seed: u64, relative: &str) -> [u32; 4] {
    let key = [seed as u32, (seed >> 32) as u32];
    let start = [relative.len() as u32, stream::SPLIT, 0, 0];
    relative.as_bytes().chunks(16).fold(philox4x32(start, key), |mut state, chunk| {
        let mut block = [0; 16];
        block[..chunk.len()].copy_from_slice(chunk);
        for (word, bytes) in state.iter_mut().zip(block.chunks_exact(4)) {
            *word ^= u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        philox4x32(state, key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn items(counts: &[usize]) -> Vec<Item> {
        let picture = |class: usize, i: usize| {
            let relative = format!("class{class}/{i}.jpg");
            Item { path: relative.clone().into(), relative, class: class as u32 }
        };
        counts.iter().enumerate().flat_map(|(c, &n)| (0..n).map(move |i| picture(c, i))).collect()
    }

    fn names(items: &[Item]) -> BTreeSet<String> {
        items.iter().map(|item| item.relative.clone()).collect()
    }

    #[test]
    fn parts_are_disjoint_complete_and_stratified() {
        let all = items(&[100, 37, 2, 3]);
        let (train, val) = split(all.clone(), 0.9, 1);
        assert!(names(&train).is_disjoint(&names(&val)));
        assert_eq!(&names(&train) | &names(&val), names(&all));
        let count = |class| val.iter().filter(|item| item.class == class).count();
        assert_eq!([count(0), count(1), count(2), count(3)], [10, 4, 1, 1]);
    }

    #[test]
    fn listing_order_has_no_influence_and_the_seed_has() {
        let all = items(&[50, 50]);
        let reversed = all.iter().rev().cloned().collect();
        let (_, val) = split(all.clone(), 0.8, 7);
        assert_eq!(names(&val), names(&split(reversed, 0.8, 7).1));
        assert_ne!(names(&val), names(&split(all, 0.8, 8).1));
    }

    #[test]
    fn extreme_shares_leave_a_picture_on_either_side() {
        for (share, sizes) in [(0.999, (9, 1)), (0.001, (1, 9))] {
            let (train, val) = split(items(&[10]), share, 0);
            assert_eq!((train.len(), val.len()), sizes);
        }
    }

    /// A change here would move pictures between training and validation of runs that are resumed.
    #[test]
    fn ranks_never_change() {
        let val = names(&split(items(&[10, 10]), 0.8, 42).1);
        let known = ["class0/2.jpg", "class0/5.jpg", "class1/0.jpg", "class1/2.jpg"];
        assert!(val.iter().eq(known), "{val:?}");
    }
}
