//! Random cases, each from a recorded sequence of choices: a case that fails is made smaller by lowering its choices, whatever
//! its op makes of them.

use super::Op;
use super::case::{Case, Fill};
use crate::rng::{Philox, stream};

/// Products of a random case at most, so that the f64 reference takes milliseconds.
pub(super) const MAX_PRODUCTS: usize = 1 << 20;

/// Makes a random case of an op: `Operator::random`.
pub type Generator = fn(&mut Draw) -> Case;

/// Where an op's generator takes its choices from. The choice 0 is always the simplest.
#[derive(Debug)]
pub struct Draw {
    random: Option<Philox>,
    given: Vec<u32>,
    taken: Vec<u32>,
    /// Whether the kind of the first input's values has been chosen.
    filled: bool,
}

impl Draw {
    /// Choices that are functions of the seed and the case's number.
    pub fn random(seed: u64, number: u32) -> Self {
        Draw {
            random: Some(Philox { seed, stream: stream::TEST, step: number }),
            given: Vec::new(),
            taken: Vec::new(),
            filled: false,
        }
    }

    /// The choices of a case that was drawn before, perhaps lowered; what is missing is 0.
    pub fn replay(choices: Vec<u32>) -> Self {
        Draw { random: None, given: choices, taken: Vec::new(), filled: false }
    }

    /// A case by `generator`, and the choices behind it.
    pub fn case(mut self, generator: Generator) -> (Case, Vec<u32>) {
        let case = generator(&mut self);
        (case, self.taken)
    }

    /// A number below `n`, which is at least 1.
    pub(super) fn below(&mut self, n: usize) -> usize {
        let at = self.taken.len();
        self.choose(n, |random| random.word(at as u32) as usize)
    }

    /// One of `n` kinds of values. An op's cases take turns for the first input: none of the kinds is left to chance.
    fn kind(&mut self, n: usize) -> usize {
        match std::mem::replace(&mut self.filled, true) {
            true => self.below(n),
            false => self.choose(n, |random| random.step as usize & 0xf_ffff),
        }
    }

    fn choose(&mut self, n: usize, number: impl Fn(Philox) -> usize) -> usize {
        let at = self.taken.len();
        let choice = match self.random {
            Some(random) => number(random) % n,
            None => self.given.get(at).map_or(0, |&choice| (choice as usize).min(n - 1)),
        };
        self.taken.push(choice as u32);
        choice
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// Two such numbers: vertical and horizontal.
    pub(super) fn pair(&mut self, low: usize, high: usize) -> [usize; 2] {
        [self.between(low, high), self.between(low, high)]
    }

    /// One of these, the simplest first.
    pub(super) fn pick<T: Copy, const N: usize>(&mut self, choices: [T; N]) -> T {
        choices[self.below(N)]
    }

    /// A shape of 1 to 4 dimensions.
    pub(super) fn shape(&mut self) -> Vec<usize> {
        match self.below(4) {
            0 => vec![self.between(1, 2000)],
            1 => vec![self.between(1, 40), self.between(1, 80)],
            2 => vec![self.between(1, 9), self.between(1, 30), self.between(1, 20)],
            _ => self.nchw().to_vec(),
        }
    }

    /// N, C, H, W: channels are many or planes are large, or both in a picture or two.
    pub(super) fn nchw(&mut self) -> [usize; 4] {
        let [batch, channels, side] = self.pick([[9, 67, 9], [9, 7, 40], [2, 67, 40]]);
        [self.between(1, batch), self.between(1, channels), self.between(1, side), self.between(1, side)]
    }

    /// Finite values: normal, with exact ties and zeros, all equal, large, subnormal, and huge: a product of two is within f32,
    /// and so is a sum of many.
    pub(super) fn finite(&mut self) -> Fill {
        let kind = self.kind(7);
        Self::fill(kind)
    }

    /// Also NaN and infinities among normal values: many, negative infinities alone, or one.
    pub(super) fn any(&mut self) -> Fill {
        let kind = self.kind(10);
        Self::fill(kind)
    }

    fn fill(kind: usize) -> Fill {
        match kind {
            0 | 1 => Fill::Normal(1.0),
            2 => Fill::Ties,
            3 => Fill::Given(vec![-2.5]),
            4 => Fill::Normal(1e4),
            5 => Fill::Normal(1e-39),
            6 => Fill::Normal(1e15),
            7 => Fill::NonFinite,
            8 => Fill::Masked,
            _ => Fill::OneNonFinite,
        }
    }
}

/// `count` random cases of each op, in the list's order: generator, case, and the choices behind it.
pub fn cases(seed: u64, count: u32) -> impl Iterator<Item = (Generator, Case, Vec<u32>)> {
    Op::generators().into_iter().enumerate().flat_map(move |(op, generator)| {
        (0..count).map(move |number| {
            let (case, choices) = Draw::random(seed, (op as u32) << 20 | number).case(generator);
            (generator, case.named(format!("random {number}, seed {seed}")), choices)
        })
    })
}

/// The smallest failing case on the way from `choices` down: lowers one choice after the other, as long as `fails` says so and
/// `attempts` last. Returns the case's choices.
pub fn shrink(mut choices: Vec<u32>, mut attempts: usize, mut fails: impl FnMut(&[u32]) -> bool) -> Vec<u32> {
    let mut lowered = true;
    while lowered {
        lowered = false;
        for at in 0..choices.len() {
            let now = choices[at];
            for to in [0, now / 2, now.saturating_sub(1)] {
                if to >= now || attempts == 0 {
                    continue;
                }
                attempts -= 1;
                let mut tried = choices.clone();
                tried[at] = to;
                if fails(&tried) {
                    choices = tried;
                    lowered = true;
                    break;
                }
            }
        }
    }
    choices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_make_the_case() {
        for generator in Op::generators() {
            let (case, choices) = Draw::random(7, 3).case(generator);
            let (again, same) = Draw::replay(choices.clone()).case(generator);
            assert_eq!((format!("{case:?}"), choices), (format!("{again:?}"), same));
        }
    }

    #[test]
    fn shrinking_finds_the_smallest() {
        // Fails from (7, 0, 3) on.
        let smallest = shrink(vec![90, 41, 12], 1000, |c| c[0] >= 7 && c[2] >= 3);
        assert_eq!(smallest, [7, 0, 3]);
        assert_eq!(shrink(vec![5], 0, |_| true), [5], "no attempts left");
    }

    /// Every op's random cases are valid, and small enough.
    #[test]
    fn random_cases_pass_their_shape_rules() {
        for generator in Op::generators() {
            for number in 0..300 {
                let (case, _) = Draw::random(1, number).case(generator);
                let types = case.types();
                let message = |e| format!("{case:?}: {e}");
                case.op.infer(&types).map_err(message).unwrap();
                assert!(case.op.macs(&types) <= MAX_PRODUCTS as u64, "{case:?}");
            }
            let (simplest, _) = Draw::replay(Vec::new()).case(generator);
            let types: Vec<_> = simplest.inputs.iter().map(|input| input.ty.clone()).collect();
            simplest.op.infer(&types).unwrap();
        }
    }
}
