//! Which pictures of a batch are mixed, and how: mixup and CutMix, for [`crate::ops::Mix`].

use super::Settings;
use crate::ops::IGNORE;
use crate::ops::mix::PLAN;
use crate::rng::{Philox, stream};

/// Random numbers that a picture has for itself: more than it takes.
const EACH: u32 = 4096;
/// Shares are whole multiples of 1 / PARTS: the same on every machine, whatever its logarithms are.
const PARTS: f64 = 65_536.0;

/// How pictures are mixed. Each picture draws for itself; the picture that it is mixed with is the one in the opposite row.
pub(super) struct Mixing {
    /// Of mixup's Beta distribution; 0 for none.
    mixup: f64,
    /// Of CutMix's.
    cutmix: f64,
    /// Height and width.
    size: [usize; 2],
}

/// What becomes of a batch.
pub(super) struct Plan {
    /// f32 `[N, 5]`, see [`crate::ops::Mix`].
    pub numbers: Vec<f32>,
    /// Labels of the pictures mixed in.
    pub others: Vec<u32>,
    /// What stays of each picture, in [0, 1].
    pub shares: Vec<f32>,
}

impl Mixing {
    /// What the settings say of pictures of `size` = `[H, W]`; `None` if nothing.
    pub fn new(settings: &Settings, size: [usize; 2]) -> Option<Mixing> {
        let (mixup, cutmix) = (settings.mixup, settings.cutmix);
        (mixup > 0.0 || cutmix > 0.0).then_some(Mixing { mixup, cutmix, size })
    }

    /// The plan of a step. A row without a picture, and one opposite to such a row, is left alone.
    pub fn plan(&self, seed: u64, step: u64, labels: &[u32]) -> Plan {
        let random = Philox { seed, stream: stream::MIX, step: step as u32 };
        let mut plan = Plan { numbers: Vec::new(), others: Vec::new(), shares: Vec::new() };
        for (n, (&own, &other)) in labels.iter().zip(labels.iter().rev()).enumerate() {
            let alone = own == IGNORE || other == IGNORE || n == labels.len() - 1 - n;
            let (share, [blend, top, left, bottom, right]) = match alone {
                true => (1.0, [1.0, 0.0, 0.0, 0.0, 0.0]),
                false => self.draw(Numbers { random, next: n as u32 * EACH }),
            };
            plan.numbers.extend([blend, top, left, bottom, right]);
            plan.others.push(if alone { own } else { other });
            plan.shares.push(share);
        }
        plan
    }

    /// What stays of a picture, and its row of the plan.
    fn draw(&self, mut numbers: Numbers) -> (f32, [f32; PLAN]) {
        let cuts = numbers.uniform() < 0.5;
        if self.cutmix == 0.0 || (self.mixup > 0.0 && !cuts) {
            let share = numbers.beta(self.mixup) as f32;
            return (share, [share, 0.0, 0.0, 0.0, 0.0]);
        }
        // As in the paper: a box as wide to the picture as it is high, around any pixel, of which what lies outside is cut off.
        let side = (1.0 - numbers.beta(self.cutmix)).sqrt();
        let [(top, bottom), (left, right)] = self.size.map(|extent| {
            let (whole, middle) = ((side * extent as f64) as i64, (numbers.uniform() * extent as f64) as i64);
            let first = middle - whole / 2;
            (first.max(0), (first + whole).min(extent as i64))
        });
        let [height, width] = self.size.map(|extent| extent as f64);
        let share = 1.0 - (bottom - top) as f64 * (right - left) as f64 / (height * width);
        (share as f32, [1.0, top as f32, left as f32, bottom as f32, right as f32])
    }
}

/// The random numbers of one picture, one after the other.
struct Numbers {
    random: Philox,
    next: u32,
}

impl Numbers {
    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        self.next += 1;
        self.random.uniform(self.next - 1) as f64
    }

    /// In (0, 1].
    fn positive(&mut self) -> f64 {
        1.0 - self.uniform()
    }

    /// From Beta(alpha, alpha), rounded: the share of one gamma variate in the sum of two.
    fn beta(&mut self, alpha: f64) -> f64 {
        let (a, b) = (self.log_gamma(alpha), self.log_gamma(alpha));
        (PARTS / (1.0 + (b - a).exp())).round() / PARTS
    }

    /// The logarithm of a gamma variate of this shape (Marsaglia and Tsang, "A simple method for generating gamma variables", 2000).
    fn log_gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            return self.log_gamma(shape + 1.0) + self.positive().ln() / shape;
        }
        let d = shape - 1.0 / 3.0;
        loop {
            let normal = (-2.0 * self.positive().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos();
            let v = (1.0 + normal / (9.0 * d).sqrt()).powi(3);
            if v > 0.0 && self.positive().ln() < 0.5 * normal * normal + d - d * v + d * v.ln() {
                return (d * v).ln();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(mixup: f64, cutmix: f64) -> Vec<(f32, [f32; PLAN])> {
        let mixing = Mixing { mixup, cutmix, size: [40, 50] };
        let labels = [0; 64];
        let plans = (0..150).map(|step| mixing.plan(7, step, &labels));
        plans.flat_map(|plan| plan.shares.into_iter().zip(plan.numbers.as_chunks().0.to_vec())).collect()
    }

    /// Mean 1/2 and variance 1 / (4 (2 alpha + 1)), as Beta(alpha, alpha) has them.
    #[test]
    fn shares_are_of_the_beta_distribution() {
        for alpha in [0.05, 0.2, 1.0, 4.0] {
            let shares: Vec<f64> = shares(alpha, 0.0).iter().map(|(share, _)| *share as f64).collect();
            let mean = shares.iter().sum::<f64>() / shares.len() as f64;
            let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / shares.len() as f64;
            let expected = 0.25 / (2.0 * alpha + 1.0);
            assert!((mean - 0.5).abs() < 0.02, "alpha {alpha}: mean {mean}");
            assert!(
                (variance / expected - 1.0).abs() < 0.05,
                "alpha {alpha}: variance {variance}, expected {expected}"
            );
            assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
        }
    }

    #[test]
    fn boxes_are_inside_and_the_share_is_what_they_leave() {
        let drawn = shares(0.0, 1.0);
        for (share, [blend, top, left, bottom, right]) in &drawn {
            assert!(*blend == 1.0 && 0.0 <= *top && top <= bottom && *bottom <= 40.0);
            assert!(0.0 <= *left && left <= right && *right <= 50.0);
            assert_eq!(*share, (1.0 - (bottom - top) as f64 * (right - left) as f64 / 2000.0) as f32);
        }
        assert!(drawn.iter().any(|(share, _)| *share > 0.95) && drawn.iter().any(|(share, _)| *share < 0.3));
        let both = shares(0.4, 1.0);
        let cut = both.iter().filter(|(_, plan)| plan[3] > 0.0).count();
        assert!((both.len() * 2 / 5..both.len() * 3 / 5).contains(&cut), "{cut} of {}", both.len());
    }

    /// The rest of a batch that is not full, unreadable pictures, and the one in the middle.
    #[test]
    fn rows_without_a_partner_are_left_alone() {
        let mixing = Mixing { mixup: 1.0, cutmix: 0.0, size: [4, 4] };
        let labels = [3, 1, IGNORE, 2, 0, 5, IGNORE];
        let plan = mixing.plan(1, 2, &labels);
        assert_eq!(plan.others, [3, 5, IGNORE, 2, 0, 1, IGNORE]);
        let alone: Vec<bool> = plan.shares.iter().map(|share| *share == 1.0).collect();
        assert_eq!(alone, [true, false, true, true, true, false, true]);
        assert!(mixing.plan(1, 2, &labels).shares == plan.shares && mixing.plan(1, 3, &labels).shares != plan.shares);
    }
}
