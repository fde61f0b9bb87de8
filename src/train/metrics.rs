//! Loss, accuracy and confusion matrix on the host, in f64, from the logits that a step read back.

use serde::{Deserialize, Serialize};

use crate::ops::IGNORE;
use crate::tensor::{Data, Tensor};

/// What one labelled picture's logits say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Cross entropy, without label smoothing.
    pub loss: f64,
    /// Place of the label among the classes by logit, from 0; of equal logits the smaller class comes first.
    pub rank: usize,
    /// The class in place 0.
    pub predicted: usize,
}

/// Scores the `logits` of a picture of class `label` (which must be one of them).
pub fn score(logits: &[f32], label: usize) -> Scored {
    let own = logits[label] as f64;
    let max = logits.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v as f64));
    let sum: f64 = logits.iter().map(|&v| (v as f64 - max).exp()).sum();
    let before = |(class, &v): (usize, &f32)| (v as f64) > own || (v as f64 == own && class < label);
    let rank = logits.iter().enumerate().filter(|&entry| before(entry)).count();
    // A NaN compares false with everything: without the second condition it would rank first.
    let rank = if own.is_nan() { logits.len() } else { rank };
    Scored { loss: max + sum.ln() - own, rank, predicted: argmax(logits) }
}

/// The first of the largest logits.
pub fn argmax(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

/// Softmax in f64.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v as f64));
    let exp: Vec<f64> = logits.iter().map(|&v| (v as f64 - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|e| e / sum).collect()
}

/// The rows of a batch that have a label, with it. `logits`: `f32 [N, classes]`; `labels`: `u32 [N]`.
pub fn labelled_rows<'a>(logits: &'a Tensor, labels: &'a Tensor) -> impl Iterator<Item = (&'a [f32], usize)> {
    let values = logits.as_f32().unwrap_or_default();
    let labels = match labels.data() {
        Data::U32(labels) => &labels[..],
        _ => &[],
    };
    let classes = logits.shape().last().copied().unwrap_or(1).max(1);
    values.chunks(classes).zip(labels).filter(|(_, label)| **label != IGNORE).map(|(row, label)| (row, *label as usize))
}

/// Sums over pictures: exact to carry over a resume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Pictures counted.
    pub n: u64,
    /// Sum of their losses.
    pub loss: f64,
    /// Pictures whose label came first.
    pub top1: u64,
    /// Pictures whose label was among the first five.
    pub top5: u64,
}

impl Tally {
    /// Counts a picture, with its loss.
    pub fn add(&mut self, scored: Scored) {
        self.loss += scored.loss;
        self.count(scored);
    }

    /// Counts a batch whose mean loss the device computed (with label smoothing, as it was trained on).
    pub fn add_batch(&mut self, mean_loss: f32, logits: &Tensor, labels: &Tensor) {
        let before = self.n;
        labelled_rows(logits, labels).for_each(|(row, label)| self.count(score(row, label)));
        self.loss += mean_loss as f64 * (self.n - before) as f64;
    }

    fn count(&mut self, scored: Scored) {
        self.n += 1;
        self.top1 += (scored.rank < 1) as u64;
        self.top5 += (scored.rank < 5) as u64;
    }

    /// Means over the pictures; NaN when there was none.
    pub fn means(&self) -> Means {
        let n = self.n as f64;
        Means { loss: self.loss / n, top1: self.top1 as f64 / n, top5: self.top5 as f64 / n }
    }
}

/// Means over pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Means {
    /// Mean loss, nats.
    pub loss: f64,
    /// Share of pictures whose label came first, in [0, 1].
    pub top1: f64,
    /// Share of pictures whose label was among the first five.
    pub top5: f64,
}

/// Counts of the pictures of each class, of those that were named so, and of those that were named so rightly.
#[derive(Clone, Debug)]
pub struct ByClass(Vec<[u64; 3]>);

impl ByClass {
    /// All counts zero.
    pub fn new(classes: usize) -> Self {
        ByClass(vec![[0; 3]; classes])
    }

    /// Counts a picture.
    pub fn add(&mut self, label: usize, predicted: usize) {
        self.0[label][0] += 1;
        self.0[predicted][1] += 1;
        self.0[label][2] += u64::from(predicted == label);
    }

    /// Whether the names have to do with the pictures, which one name for all has not: the mean of the classes' recalls is above that of names
    /// drawn as often as these by three standard errors, or by half of what could be gained. (Of class c such names find their own share
    /// q of all names, with a variance of q (1 - q) / pictures of c.)
    pub fn tells_apart(&self) -> bool {
        let named: u64 = self.0.iter().map(|[_, named, _]| named).sum();
        let present: Vec<[f64; 3]> = self.0.iter().filter(|c| c[0] > 0).map(|c| c.map(|n| n as f64)).collect();
        let mean = |of: &dyn Fn(f64, f64, f64) -> f64| {
            present.iter().map(|&[n, as_often, right]| of(n, as_often / named as f64, right)).sum::<f64>()
                / present.len() as f64
        };
        let above = mean(&|n, _, right| right / n) - mean(&|_, q, _| q);
        let error = (mean(&|n, q, _| q * (1.0 - q) / n) / present.len() as f64).sqrt();
        above > f64::min(3.0 * error, 0.5 * (1.0 - 1.0 / present.len() as f64))
    }
}

/// Counts by true class (row) and predicted class (column).
#[derive(Clone, Debug, PartialEq)]
pub struct Confusion(pub Vec<Vec<u64>>);

/// What [`Confusion`] says of one class. Precision of a class never predicted, recall of one without pictures, and f1 of both: 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassScore {
    /// Of the pictures predicted as the class, the share that is.
    pub precision: f64,
    /// Of the class's pictures, the share predicted as it.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
    /// Pictures of the class.
    pub n: u64,
}

impl Confusion {
    /// All counts zero.
    pub fn new(classes: usize) -> Self {
        Confusion(vec![vec![0; classes]; classes])
    }

    /// Counts a picture.
    pub fn add(&mut self, label: usize, predicted: usize) {
        self.0[label][predicted] += 1;
    }

    /// Scores of each class.
    pub fn per_class(&self) -> Vec<ClassScore> {
        let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
        let of_class = |class: usize| {
            let hits = self.0[class][class];
            let n = self.0[class].iter().sum();
            let predicted = self.0.iter().map(|row| row[class]).sum();
            ClassScore {
                precision: share(hits, predicted),
                recall: share(hits, n),
                f1: share(2 * hits, n + predicted),
                n,
            }
        };
        (0..self.0.len()).map(of_class).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_minus_the_log_of_the_label_s_probability() {
        let logits = [1.0, 2.0, 3.0];
        let p = softmax(&logits);
        for (label, p) in p.iter().enumerate() {
            let scored = score(&logits, label);
            assert!((scored.loss + p.ln()).abs() < 1e-12);
            assert_eq!((scored.rank, scored.predicted), (2 - label, 2));
        }
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn large_logits_stay_finite() {
        assert_eq!(score(&[1000.0, -1000.0], 0).loss, 0.0);
        assert_eq!(score(&[1000.0, -1000.0], 1).loss, 2000.0);
    }

    #[test]
    fn ties_go_to_the_smaller_class_and_nan_is_never_right() {
        assert_eq!(score(&[1.0, 1.0], 0).rank, 0);
        assert_eq!(score(&[1.0, 1.0], 1).rank, 1);
        assert_eq!(argmax(&[1.0, 1.0]), 0);
        let nan = score(&[f32::NAN, f32::NAN], 0);
        assert!(nan.loss.is_nan() && nan.rank == 2);
    }

    #[test]
    fn rows_without_a_label_do_not_count() {
        let logits = Tensor::f32([3, 2], vec![2.0, 0.0, 2.0, 0.0, 0.0, 0.0]).unwrap();
        let labels = Tensor::u32([3], vec![0, 1, IGNORE]).unwrap();
        let mut tally = Tally::default();
        tally.add_batch(0.5, &logits, &labels);
        assert_eq!(tally, Tally { n: 2, loss: 1.0, top1: 1, top5: 2 });
        assert_eq!(tally.means(), Means { loss: 0.5, top1: 0.5, top5: 1.0 });
        assert!(Tally::default().means().loss.is_nan());
    }

    #[test]
    fn names_that_have_to_do_with_the_pictures() {
        let tell = |counts: &[(usize, usize, usize)]| {
            let mut by_class = ByClass::new(4);
            for &(label, predicted, n) in counts {
                (0..n).for_each(|_| by_class.add(label, predicted));
            }
            by_class.tells_apart()
        };
        // One name for all, whatever the classes' sizes; and no picture at all.
        for counts in [&[(0, 0, 180), (1, 0, 20)][..], &[(0, 1, 180), (1, 1, 20)], &[(0, 2, 50), (1, 2, 50)], &[]] {
            assert!(!tell(counts), "{counts:?}");
        }
        // Two more right than by one name, by chance: 0.52 +- 0.035 of names drawn. 62 % of each are no chance.
        assert!(!tell(&[(0, 0, 52), (0, 1, 48), (1, 0, 48), (1, 1, 52)]));
        assert!(tell(&[(0, 0, 62), (0, 1, 38), (1, 0, 38), (1, 1, 62)]));
        // Rare ones found, at the price of fewer right in all than by one name.
        assert!(tell(&[(0, 0, 130), (0, 1, 50), (1, 0, 2), (1, 1, 18)]));
        // Few pictures, for which three standard errors are more than there is.
        assert!(tell(&[(0, 0, 1), (1, 1, 1)]));
        assert!(!tell(&[(0, 0, 2), (0, 1, 2), (1, 1, 3), (1, 0, 1)]));
        // A class alone says nothing.
        assert!(!tell(&[(3, 3, 9)]));
    }

    #[test]
    fn confusion_scores() {
        let mut confusion = Confusion::new(3);
        for (label, predicted) in [(0, 0), (0, 0), (0, 1), (1, 1)] {
            confusion.add(label, predicted);
        }
        let scores = confusion.per_class();
        assert_eq!(scores[0], ClassScore { precision: 1.0, recall: 2.0 / 3.0, f1: 0.8, n: 3 });
        assert_eq!(scores[1], ClassScore { precision: 0.5, recall: 1.0, f1: 2.0 / 3.0, n: 1 });
        assert_eq!(scores[2], ClassScore { precision: 0.0, recall: 0.0, f1: 0.0, n: 0 });
    }
}
