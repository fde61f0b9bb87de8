//! Mixing pictures of a batch: mixup (Zhang et al., "mixup: beyond empirical risk minimization", 2018) and CutMix (Yun et al., "CutMix:
//! regularization strategy to train strong classifiers with localizable features", 2019).

use super::case::{Case, CaseInput, Fill};
use super::draw::Draw;
use super::{Array, Forward, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::TensorType;

/// Numbers of the plan a picture: how much stays of it, then top, left, bottom, right of a box, the last two outside.
pub(crate) const PLAN: usize = 5;

/// Row n meets row N - 1 - n: within its box it becomes that row, elsewhere `share * x[n] + (1 - share) * x[N - 1 - n]`. Inputs:
/// `x [N, C, H, W]` and the plan, f32 `[N, 5] = [share, top, left, bottom, right]`, whose box has the rows i and columns j with
/// `top <= i < bottom`, `left <= j < right`. Output: as x.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix;

/// Of each element of `[N, C, H, W]`: its place, that of the other row's, and what the plan says of them: `None` in the box, else the
/// share.
fn places<'a>(x: &'a Array, plan: &'a Array) -> impl Iterator<Item = (usize, usize, Option<f64>)> + 'a {
    let (n, height, width) = (x.shape[0], x.shape[2], x.shape[3]);
    let row = x.shape[1] * height * width;
    (0..n * row).map(move |place| {
        let (i, j) = ((place / width % height) as f64, (place % width) as f64);
        let [share, top, left, bottom, right] = std::array::from_fn(|k| plan.data[place / row * PLAN + k]);
        let in_box = top <= i && i < bottom && left <= j && j < right;
        (place, (n - 1 - place / row) * row + place % row, (!in_box).then_some(share))
    })
}

impl Operator for Mix {
    fn name(&self) -> &'static str {
        "mix"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, plan] = inputs_f32(inputs)?;
        let [n, ..] = x.nchw()?;
        expect_shape("the plan", &plan, &[n, PLAN].into())?;
        Ok(vec![TensorType::f32(x)])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let x = &inputs[0].data;
        let mixed = |(own, other, share): (usize, usize, Option<f64>)| match share {
            Some(share) => share * x[own] + (1.0 - share) * x[other],
            None => x[other],
        };
        let data = places(&inputs[0], &inputs[1]).map(mixed).collect();
        vec![Array { shape: inputs[0].shape.clone(), data }]
    }

    fn scale(&self, inputs: &[Array], _: &[Array]) -> Vec<Array> {
        let x = &inputs[0].data;
        let size = |(own, other, share): (usize, usize, Option<f64>)| match share {
            Some(share) => (share * x[own]).abs() + (1.0 + share.abs()) * x[other].abs(),
            None => x[other].abs(),
        };
        let data = places(&inputs[0], &inputs[1]).map(size).collect();
        vec![Array { shape: inputs[0].shape.clone(), data }]
    }

    fn cases() -> Vec<Case> {
        let plan = |n: usize, numbers: Vec<f32>| CaseInput::f32([n, PLAN], Fill::Given(numbers));
        let case = |name: &str, shape: [usize; 4], numbers: Vec<f32>| {
            Case::new(Mix, name, vec![CaseInput::normal(shape), plan(shape[0], numbers)], 2)
        };
        let apart: Vec<f32> = (0..4)
            .flat_map(|n| [0.25 * n as f32, n as f32, 1.0 + n as f32, 3.0 + 2.0 * n as f32, 5.0 + 3.0 * n as f32])
            .collect();
        vec![
            case("shares", [5, 3, 7, 6], vec![0.3, 0.0, 0.0, 0.0, 0.0]),
            case("nothing", [2, 1, 5, 3], vec![1.0, 0.0, 0.0, 0.0, 0.0]),
            case("a box", [3, 3, 9, 11], vec![1.0, 2.0, 3.0, 7.0, 8.0]),
            case("a box at the edge, of one pixel", [4, 2, 6, 5], vec![1.0, 5.0, 4.0, 6.0, 5.0]),
            case("all of it", [2, 3, 4, 4], vec![0.5, 0.0, 0.0, 4.0, 4.0]),
            case("a plan for each", [4, 3, 13, 17], apart),
            case("one picture", [1, 3, 5, 5], vec![0.7, 1.0, 1.0, 3.0, 2.0]),
            case("alexnet", [2, 3, 224, 224], vec![0.6, 0.0, 0.0, 0.0, 0.0, 1.0, 30.0, 100.0, 180.0, 224.0]),
        ]
        .into_iter()
        .map(Case::without_gradient)
        .collect()
    }

    fn random(draw: &mut Draw) -> Case {
        let (n, channels, [height, width]) = (draw.between(1, 9), draw.between(1, 5), draw.pair(1, 20));
        let boxed = (0..n).flat_map(|_| {
            let ([top, bottom], [left, right]) = (draw.pair(0, height), draw.pair(0, width));
            [draw.between(0, 16) as f32 / 16.0, top as f32, left as f32, bottom as f32, right as f32]
        });
        let plan = CaseInput::f32([n, PLAN], Fill::Given(boxed.collect()));
        Case::new(Mix, "random", vec![CaseInput::f32([n, channels, height, width], draw.any()), plan], 2)
            .without_gradient()
    }
}
