//! Joins tensors along their channels, and the gradient: the part that came from one of them.

use super::case::{Case, CaseInput};
use super::draw::Draw;
use super::tolerance::relative;
use super::{Array, Forward, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::{DType, Shape, TensorType};

/// Inputs: `[N, C_i, ...]`, alike but for their channels; as many as there are numbers in `channels`. Output: `[N, C, ...]`, C the
/// sum of the C_i, the first input's channels first.
#[derive(Clone, Debug, PartialEq)]
pub struct Concat {
    /// C_i of each input.
    pub channels: Vec<usize>,
}

/// Gradient of [`Concat`] to one of its inputs. Input: `dy [N, C, ...]`. Output: channels `first` to `first + channels` of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ConcatBackward {
    /// Channels of the inputs before.
    pub first: usize,
    /// Channels of the input.
    pub channels: usize,
}

/// `shape` with another number of channels.
fn with_channels(shape: &Shape, channels: usize) -> Shape {
    let mut extents = shape.to_vec();
    extents[1] = channels;
    extents.into()
}

/// Elements of a channel.
fn inner(shape: &Shape) -> usize {
    shape[2..].iter().product()
}

impl Concat {
    /// The ops that give each input's gradient.
    fn parts(&self) -> impl Iterator<Item = ConcatBackward> + '_ {
        self.channels.iter().scan(0, |next, &channels| {
            let first = *next;
            *next += channels;
            Some(ConcatBackward { first, channels })
        })
    }
}

impl Operator for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        if inputs.len() != self.channels.len() || inputs.is_empty() {
            return Err(format!("expected {} inputs, at least one, got {}", self.channels.len(), inputs.len()));
        }
        if let Some(other) = inputs.iter().find(|ty| ty.dtype != DType::F32) {
            return Err(format!("expected inputs of type F32, got {:?}", other.dtype));
        }
        let first = &inputs[0].shape;
        if first.len() < 2 {
            return Err(format!("expected inputs [N, C, ...], got {first}"));
        }
        for (n, (ty, &channels)) in inputs.iter().zip(&self.channels).enumerate() {
            expect_shape(&format!("input {n}"), &ty.shape, &with_channels(first, channels))?;
        }
        Ok(vec![TensorType::f32(with_channels(first, self.channels.iter().sum()))])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        self.parts().enumerate().map(|(n, part)| node.want(n, graph, part, &[node.cotangent])).collect()
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let shape = with_channels(&inputs[0].shape, self.channels.iter().sum());
        let mut data = Vec::with_capacity(shape.elements());
        for n in 0..shape[0] {
            for x in inputs {
                let row = x.shape[1] * inner(&shape);
                data.extend_from_slice(&x.data[n * row..(n + 1) * row]);
            }
        }
        vec![Array { shape, data }]
    }

    fn scale(&self, _: &[Array], outputs: &[Array]) -> Vec<Array> {
        relative(outputs)
    }

    fn cases() -> Vec<Case> {
        let case = |(name, channels, x): (&'static str, Vec<usize>, Shape)| {
            let inputs = channels.iter().map(|&c| CaseInput::normal(with_channels(&x, c))).collect();
            Case::new(Concat { channels }, name, inputs, 1)
        };
        shapes().map(case).into()
    }

    fn random(draw: &mut Draw) -> Case {
        let (channels, x) = random(draw);
        let inputs = channels.iter().map(|&c| CaseInput::f32(with_channels(&x, c), draw.any())).collect();
        Case::new(Concat { channels }, "random", inputs, 1)
    }
}

impl Operator for ConcatBackward {
    fn name(&self) -> &'static str {
        "concat_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [dy] = inputs_f32(inputs)?;
        if dy.len() < 2 || dy[1] < self.first + self.channels {
            let last = self.first + self.channels;
            return Err(format!("expected dy [N, C, ...] of at least {last} channels, got {dy}"));
        }
        Ok(vec![TensorType::f32(with_channels(&dy, self.channels))])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let dy = &inputs[0];
        let (shape, inner) = (with_channels(&dy.shape, self.channels), inner(&dy.shape));
        let row = |n: usize| &dy.data[(n * dy.shape[1] + self.first) * inner..][..self.channels * inner];
        let data = (0..shape[0]).flat_map(|n| row(n).to_vec()).collect();
        vec![Array { shape, data }]
    }

    fn scale(&self, _: &[Array], outputs: &[Array]) -> Vec<Array> {
        relative(outputs)
    }

    fn cases() -> Vec<Case> {
        let case = |(name, channels, x): (&'static str, Vec<usize>, Shape)| {
            let dy = with_channels(&x, channels.iter().sum());
            let last = Concat { channels }.parts().last().expect("a case has inputs");
            Case::new(last, name, vec![CaseInput::normal(dy)], 1)
        };
        let middle = ConcatBackward { first: 2, channels: 3 };
        let middle = Case::new(middle, "the middle", vec![CaseInput::normal([3, 9, 5, 7])], 1);
        shapes().map(case).into_iter().chain([middle]).collect()
    }

    fn random(draw: &mut Draw) -> Case {
        let (channels, x) = random(draw);
        let dy = with_channels(&x, channels.iter().sum());
        let parts: Vec<ConcatBackward> = Concat { channels }.parts().collect();
        let part = parts[draw.below(parts.len())].clone();
        Case::new(part, "random", vec![CaseInput::f32(dy, draw.any())], 1)
    }
}

/// Channels of one to four inputs, and a shape whose own do not count.
fn random(draw: &mut Draw) -> (Vec<usize>, Shape) {
    let mut x = draw.shape();
    if x.len() < 2 {
        x.push(1);
    }
    let inputs = draw.between(1, 4);
    ((0..inputs).map(|_| draw.between(1, 20)).collect(), x.into())
}

fn shapes() -> [(&'static str, Vec<usize>, Shape); 8] {
    [
        ("one input", vec![3], [2, 0, 4, 5].into()),
        ("one of everything", vec![1, 1], [1, 0].into()),
        ("matrices", vec![5, 1, 7], [9, 0].into()),
        ("planes", vec![2, 3, 1, 4], [3, 0, 5, 7].into()),
        ("nine inputs", vec![1; 9], [2, 0, 3, 3].into()),
        ("one long row", vec![70_001, 3, 30_009], [1, 0].into()),
        ("many rows", vec![3, 2], [70_003, 0].into()),
        ("squeezenet fire2", vec![64, 64], [2, 0, 55, 55].into()),
    ]
}
