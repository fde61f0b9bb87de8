//! Dropout with a Philox mask that is recomputed, never stored.

use super::case::{Case, CaseInput};
use super::draw::Draw;
use super::tolerance::relative;
use super::{Array, Forward, Operator, expect_shape, inputs_of, philox};
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::rng::stream;
use crate::tensor::{DType, TensorType};

/// When the kept activations are scaled so that training and evaluation agree in expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropoutScaling {
    /// In training by 1 / (1 - rate); evaluation does nothing. Today's standard.
    Inverted,
    /// Not in training; evaluation multiplies by (1 - rate) (the paper; the evaluation graph holds a `Scale`).
    Paper,
}

/// Where the elements of a tensor lie in a larger one, of which they are a part: element i is number
/// `first + i / width * stride + i % width` of that one, or `first + i` with a width of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strip {
    /// Number of the first element.
    pub first: usize,
    /// Elements of the part's rows; 0 where it is in one piece.
    pub width: usize,
    /// Elements of the whole's rows.
    pub stride: usize,
}

impl Strip {
    /// All of it.
    pub const WHOLE: Strip = Strip { first: 0, width: 0, stride: 0 };

    /// The place of element i in the whole.
    pub fn place(&self, i: usize) -> usize {
        match self.width {
            0 => self.first + i,
            width => self.first + i / width * self.stride + i % width,
        }
    }
}

/// `y[i] = keep(i) ? x[i] * scale : 0`. Element i (its flat index, or [`Strip::place`]) is kept when
/// `philox(seed, stream, step).word(i) >= threshold()`. Its gradient is the same op, same stream, on dy.
/// Inputs: x (any f32 shape), counter `u32 [4] = [seed low, seed high, step, 0]`. Output: y, as x.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping, in [0, 1).
    pub rate: f32,
    /// Random stream, `rng::stream::DROPOUT + n`.
    pub stream: u32,
    /// See [`DropoutScaling`].
    pub scaling: DropoutScaling,
    /// Where x lies in the tensor whose mask this is, if it is a part of one.
    pub part: Strip,
}

impl Dropout {
    /// An element is kept when its random word is at least this: rate * 2^32, rounded.
    pub fn threshold(&self) -> u32 {
        (self.rate as f64 * 4_294_967_296.0).round().min(u32::MAX as f64) as u32
    }

    /// What kept elements are multiplied by.
    pub fn scale(&self) -> f32 {
        match self.scaling {
            DropoutScaling::Inverted => 1.0 / (1.0 - self.rate),
            DropoutScaling::Paper => 1.0,
        }
    }
}

impl Operator for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, counter] = inputs_of([DType::F32, DType::U32], inputs)?;
        expect_shape("the random counter", &counter, &[4].into())?;
        if !(0.0..1.0).contains(&self.rate) {
            return Err(format!("the rate must be in [0, 1), got {}", self.rate));
        }
        Ok(vec![TensorType::f32(x)])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        Ok(vec![node.want(0, graph, self.clone(), &[node.cotangent, node.inputs[1]])?, None])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let random = philox(&inputs[1], self.stream);
        let (threshold, scale) = (self.threshold(), self.scale() as f64);
        let keep =
            |(i, &x): (usize, &f64)| if random.word(self.part.place(i) as u32) >= threshold { x * scale } else { 0.0 };
        let data = inputs[0].data.iter().enumerate().map(keep).collect();
        vec![Array { shape: inputs[0].shape.clone(), data }]
    }

    fn scale(&self, _: &[Array], outputs: &[Array]) -> Vec<Array> {
        relative(outputs)
    }

    fn cases() -> Vec<Case> {
        let case = |rate, scaling, shape: &[usize]| {
            let op = Dropout { rate, stream: stream::DROPOUT + 1, scaling, part: Strip::WHOLE };
            let inputs = vec![CaseInput::normal(shape.to_vec()), CaseInput::counter()];
            Case::new(op, format!("rate {rate}, {scaling:?}"), inputs, 1)
        };
        let part = |part, shape: &[usize]| {
            let op = Dropout { rate: 0.5, stream: stream::DROPOUT, scaling: DropoutScaling::Inverted, part };
            Case::new(op, format!("{part:?}"), vec![CaseInput::normal(shape.to_vec()), CaseInput::counter()], 1)
        };
        vec![
            case(0.5, DropoutScaling::Inverted, &[3, 37]),
            case(0.5, DropoutScaling::Paper, &[3, 37]),
            case(0.1, DropoutScaling::Inverted, &[2, 5, 7, 3]),
            case(0.0, DropoutScaling::Inverted, &[13]),
            case(0.9, DropoutScaling::Inverted, &[5, 4096]),
            part(Strip { first: 64, width: 0, stride: 0 }, &[3, 37]),
            part(Strip { first: 35, width: 0, stride: 0 }, &[3, 37]),
            part(Strip { first: 8, width: 36, stride: 100 }, &[5, 36]),
            part(Strip { first: 37, width: 37, stride: 75 }, &[5, 37]),
            part(Strip { first: 3, width: 2, stride: 11 }, &[9, 2]),
            part(Strip { first: 2048, width: 2048, stride: 4096 }, &[9, 2048]),
            // So many words that every carry of the products is seen.
            case(0.25, DropoutScaling::Paper, &[130, 4096]),
        ]
    }

    fn random(draw: &mut Draw) -> Case {
        let (rate, stream) = (draw.pick([0.5, 0.0, 0.1, 0.9]), stream::DROPOUT + draw.below(9) as u32);
        let scaling = draw.pick([DropoutScaling::Inverted, DropoutScaling::Paper]);
        let shape = draw.shape();
        let width = shape[1..].iter().product::<usize>();
        let part = match draw.below(4) {
            0 | 1 => Strip::WHOLE,
            2 => Strip { first: draw.between(1, 99), width: 0, stride: 0 },
            _ => Strip { first: draw.between(0, 9), width, stride: width + draw.between(0, 99) },
        };
        let op = Dropout { rate, stream, scaling, part };
        Case::new(op, "random", vec![CaseInput::f32(shape, draw.any()), CaseInput::counter()], 1)
    }
}
