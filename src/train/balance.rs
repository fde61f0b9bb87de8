//! What makes up for classes of different sizes, and the order of an epoch's pictures.

use serde::{Deserialize, Serialize};

use crate::data::{Item, class_counts};
use crate::rng::{Philox, stream};

/// What makes up for classes of different sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Nothing: every picture counts alike
    #[default]
    None,
    /// Every class counts alike in the loss: a picture of a rare class more than one of a common class
    Loss,
    /// Every class comes as often: pictures of rare classes several times in an epoch, not all of the common ones
    Sample,
}

/// Weights of the classes in the loss, by which each counts alike and a picture 1 on the average; those of [`Balance::Loss`].
/// A class without pictures weighs nothing.
pub fn loss_weights(items: &[Item], classes: usize) -> Vec<f32> {
    let counts = class_counts(items, classes);
    let there = counts.iter().filter(|&&n| n > 0).count();
    let weight = |&n: &usize| if n == 0 { 0.0 } else { (items.len() as f64 / (there * n) as f64) as f32 };
    counts.iter().map(weight).collect()
}

/// The order of an epoch's pictures, as many as there are `items`: a permutation, or, where classes are to come as often, as many of each
/// class as of another, or one less: all pictures of a class before one of them comes again.
pub fn order(items: &[Item], classes: usize, balance: Balance, seed: u64, epoch: u32) -> Vec<usize> {
    let shuffle = Philox { seed, stream: stream::SHUFFLE, step: epoch };
    let places = shuffle.permutation(items.len());
    if balance != Balance::Sample {
        return places;
    }
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); classes];
    items.iter().enumerate().for_each(|(index, item)| members[item.class as usize].push(index));
    members.retain(|members| !members.is_empty());
    let draw = Philox { seed, stream: stream::BALANCE, step: epoch };
    let (mut drawn, mut word) = (Vec::with_capacity(items.len()), 0_u32);
    let present = members.len();
    for (class, members) in members.iter().enumerate() {
        // Where it does not come out even, some classes get one more, in every epoch others.
        let more = (class + epoch as usize) % present < items.len() % present;
        let mut left = items.len() / present + more as usize;
        while left > 0 {
            let round = draw.permutation_from(word, members.len());
            word = word.wrapping_add(members.len() as u32);
            drawn.extend(round.iter().take(left).map(|&member| members[member]));
            left -= left.min(members.len());
        }
    }
    places.into_iter().map(|place| drawn[place]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items of so many pictures of each class.
    fn items(counts: &[usize]) -> Vec<Item> {
        let of = |class: usize, n: usize| {
            (0..n).map(move |_| Item { path: "".into(), relative: String::new(), class: class as u32 })
        };
        counts.iter().enumerate().flat_map(|(class, &n)| of(class, n)).collect()
    }

    #[test]
    fn every_picture_once_unless_classes_are_sampled() {
        let items = items(&[30, 5, 0, 12]);
        for balance in [Balance::None, Balance::Loss] {
            let mut order = order(&items, 4, balance, 3, 9);
            order.sort();
            assert!(order.into_iter().eq(0..47));
        }
    }

    #[test]
    fn sampled_classes_come_as_often_and_their_pictures_in_turns() {
        let items = items(&[30, 5, 0, 12]);
        let epochs = [0, 1, 2].map(|epoch| order(&items, 4, Balance::Sample, 3, epoch));
        for order in &epochs {
            let count = |class| order.iter().filter(|&&index| items[index].class == class).count();
            let counts = [count(0), count(1), count(3)];
            assert_eq!(counts.iter().sum::<usize>(), 47);
            assert!(counts.iter().all(|&n| n == 15 || n == 16), "{counts:?}");
            let times = |index: usize| order.iter().filter(|&&i| i == index).count();
            assert!((0..30).all(|index| times(index) <= 1), "of 30 pictures none twice");
            assert!((30..35).all(|index| times(index) == 3 || times(index) == 4), "of 5 each three times");
        }
        assert_ne!(epochs[0], epochs[1]);
        assert_eq!(epochs[1], order(&items, 4, Balance::Sample, 3, 1));
        assert_ne!(epochs[1], order(&items, 4, Balance::Sample, 4, 1));
    }

    #[test]
    fn weights_make_classes_count_alike() {
        let items = items(&[30, 5, 0, 10]);
        let weights = loss_weights(&items, 4);
        assert_eq!(weights, [0.5, 3.0, 0.0, 1.5]);
        let mean: f32 = items.iter().map(|item| weights[item.class as usize]).sum::<f32>() / 45.0;
        assert_eq!(mean, 1.0);
    }
}
