//! Batch normalisation of each channel (Ioffe, Szegedy 2015): by the batch's own mean and variance in training, by given ones in
//! evaluation.

use super::case::{Case, CaseInput, Fill};
use super::draw::Draw;
use super::tolerance::{FLUSHED, UNIT_ROUNDOFF};
use super::{Array, Forward, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::{Shape, TensorType};

/// `y = (x - mean[c]) / sqrt(variance[c] + epsilon) * weight[c] + bias[c]`, mean and variance those of channel c over the batch.
/// Inputs: `x [N, C, ...]` (2 or 4 dimensions), `weight [C]`, `bias [C]`. Outputs: y, as x; `mean [C]`; `variance [C]`, the mean
/// square of the distances from the mean (divided by their number, not by one less). A channel's sum, and the sum of the
/// squared distances, must be within f32: |x| below about 1e17. Only y has a gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance; above 0.
    pub epsilon: f32,
}

/// Gradient of [`BatchNorm`]. Inputs: `x [N, C, ...]`, `weight [C]`, `mean [C]`, `variance [C]` (its outputs), dy, as x. Outputs: dx,
/// `dweight [C]`, `dbias [C]`. With d = x - mean, r = 1 / sqrt(variance + epsilon) and n elements in a channel:
/// dbias = sum dy; dweight = r * sum(dy * d); dx = weight * r * (dy - dbias / n - d * r * dweight / n).
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNormBackward {
    /// Of the forward op.
    pub epsilon: f32,
}

/// [`BatchNorm`] in evaluation, with mean and variance of its own. Inputs: `x [N, C, ...]`, `weight [C]`, `bias [C]`, `mean [C]`,
/// `variance [C]`. Output: y, as x.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNormInference {
    /// Added to the variance; above 0.
    pub epsilon: f32,
}

/// Checks x, and that all of `vectors` have an element for each channel.
fn check(epsilon: f32, x: &Shape, vectors: &[(&str, &Shape)]) -> Result<(), String> {
    if !matches!(x.len(), 2 | 4) || x.contains(&0) {
        return Err(format!("expected an input [N, C] or [N, C, H, W] that is not empty, got {x}"));
    }
    if epsilon.is_nan() || epsilon < f32::MIN_POSITIVE {
        return Err(format!("epsilon must be above 0, got {epsilon}"));
    }
    vectors.iter().try_for_each(|(what, shape)| expect_shape(what, shape, &[x[1]].into()))
}

/// The channel of each element of a tensor `[N, C, ...]`.
fn channels(shape: &Shape) -> impl Fn(usize) -> usize + use<> {
    let (count, inner) = (shape[1], shape[2..].iter().product::<usize>());
    move |i| i / inner % count
}

/// Per channel the sum of `f(i)` over its elements i.
fn sums(shape: &Shape, f: impl Fn(usize) -> f64) -> Vec<f64> {
    let (channel, mut sums) = (channels(shape), vec![0.0; shape[1]]);
    (0..shape.elements()).for_each(|i| sums[channel(i)] += f(i));
    sums
}

/// Elements of a channel.
fn per_channel(shape: &Shape) -> f64 {
    (shape.elements() / shape[1]) as f64
}

/// Mean and variance of each channel.
fn statistics(x: &Array) -> [Vec<f64>; 2] {
    let (channel, n) = (channels(&x.shape), per_channel(&x.shape));
    let mean: Vec<f64> = sums(&x.shape, |i| x.data[i]).into_iter().map(|sum| sum / n).collect();
    let squares = sums(&x.shape, |i| (x.data[i] - mean[channel(i)]).powi(2));
    [mean, squares.into_iter().map(|sum| sum / n).collect()]
}

fn vector(data: Vec<f64>) -> Array {
    Array { shape: [data.len()].into(), data }
}

/// The formula of evaluation.
fn normalise(x: &Array, weight: &[f64], bias: &[f64], mean: &[f64], variance: &[f64], epsilon: f32) -> Array {
    let channel = channels(&x.shape);
    let y = |(i, x): (usize, &f64)| {
        let c = channel(i);
        (x - mean[c]) / (variance[c] + epsilon as f64).sqrt() * weight[c] + bias[c]
    };
    Array { shape: x.shape.clone(), data: x.data.iter().enumerate().map(y).collect() }
}

/// The scale of y where mean and variance are off by roundings of these sizes.
fn normalised_scale(
    inputs: [&Array; 3],
    [mean, variance]: [&[f64]; 2],
    [mean_scale, variance_scale]: [&[f64]; 2],
    epsilon: f32,
) -> Array {
    let [x, weight, bias] = inputs;
    let channel = channels(&x.shape);
    let y = |(i, x): (usize, &f64)| {
        let c = channel(i);
        let spread = variance[c] + epsilon as f64;
        let (distance, factor) = ((x - mean[c]).abs(), weight.data[c].abs() / spread.sqrt());
        let relative = 2.0 + variance_scale[c] / (2.0 * spread);
        factor * (distance * relative + mean_scale[c] + FLUSHED) + 2.0 * bias.data[c].abs()
    };
    Array { shape: x.shape.clone(), data: x.data.iter().enumerate().map(y).collect() }
}

impl Operator for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, weight, bias] = inputs_f32(inputs)?;
        check(self.epsilon, &x, &[("weight", &weight), ("bias", &bias)])?;
        let statistic = TensorType::f32([x[1]]);
        Ok(vec![TensorType::f32(x), statistic.clone(), statistic])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        let (&[x, weight, _], &[_, mean, variance]) = (node.inputs, node.outputs) else {
            return Err(no_gradient(self));
        };
        let backward = BatchNormBackward { epsilon: self.epsilon };
        let gradients = graph.apply_all(node.layer, backward, &[x, weight, mean, variance, node.cotangent])?;
        Ok(gradients.into_iter().map(Some).collect())
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let [mean, variance] = statistics(&inputs[0]);
        let y = normalise(&inputs[0], &inputs[1].data, &inputs[2].data, &mean, &variance, self.epsilon);
        vec![y, vector(mean), vector(variance)]
    }

    /// The mean is right to its last digits and what the sum of the distances from it rounds to; the variance to the rounding of a
    /// sum of squared distances, and, where that is next to nothing beside the squares of x, to some roundings of f64 of these.
    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        let (x, mean, variance) = (&inputs[0], &outputs[1].data, &outputs[2].data);
        let n = per_channel(&x.shape);
        // What a tolerance counts for sums, in units of the last place.
        let of_sums = 8.0 + 4.0 * n.sqrt();
        let mean_scale = |(mean, variance): (&f64, &f64)| 2.0 * (variance / n).sqrt() + 16.0 / of_sums * mean.abs();
        let mean_scale: Vec<f64> = mean.iter().zip(variance).map(mean_scale).collect();
        let squares = sums(&x.shape, |i| x.data[i].powi(2) / n);
        let rounded = |square: &f64| 2.0_f64.powi(-48) / (UNIT_ROUNDOFF * of_sums) * square;
        let variance_scale: Vec<f64> =
            variance.iter().zip(&squares).map(|(variance, square)| 2.0 * variance + rounded(square)).collect();
        let inputs = [x, &inputs[1], &inputs[2]];
        let y = normalised_scale(inputs, [mean, variance], [&mean_scale, &variance_scale], self.epsilon);
        vec![y, vector(mean_scale), vector(variance_scale)]
    }

    fn cases() -> Vec<Case> {
        let case = |name: &'static str, x: Shape, fill: Fill, epsilon| {
            let (channels, terms) = (x[1], x.elements() / x[1]);
            let inputs = vec![CaseInput::f32(x, fill), CaseInput::normal([channels]), CaseInput::normal([channels])];
            // Few elements may be nearly equal: a slope so steep that differences say nothing.
            let case = Case::new(BatchNorm { epsilon }, name, inputs, terms);
            if terms < 8 { case.without_gradient() } else { case }
        };
        let values: [(&'static str, Fill); 5] = [
            ("all equal", Fill::Given(vec![-2.7])),
            ("exact ties", Fill::Ties),
            ("closer than epsilon", Fill::Normal(1e-4)),
            ("huge", Fill::Normal(1e15)),
            ("one far from the others", Fill::Spike(300)),
        ];
        let shapes = shapes().into_iter().map(|(name, x)| case(name, x, Fill::Normal(1.0), 1e-5));
        let values = values.into_iter().map(|(name, fill)| {
            let case = case(name, [3, 2, 13, 11].into(), fill, 1e-5);
            // Differences of 1e-5 are coarse where values are close, and nothing to huge ones.
            if name == "exact ties" { case } else { case.without_gradient() }
        });
        let others = [
            case("far from zero", [3, 2, 64, 65].into(), Fill::Uniform(1000.0, 1001.0), 1e-5).without_gradient(),
            case("large epsilon", [5, 3, 4, 5].into(), Fill::Normal(0.1), 0.5),
        ];
        shapes.chain(values).chain(others).collect()
    }

    fn random(draw: &mut Draw) -> Case {
        let (x, epsilon) = random(draw);
        let inputs = vec![
            CaseInput::f32(x.clone(), draw.any()),
            CaseInput::f32([x[1]], parameter(draw)),
            CaseInput::f32([x[1]], parameter(draw)),
        ];
        let terms = x.iter().product::<usize>() / x[1];
        Case::new(BatchNorm { epsilon }, "random", inputs, terms)
    }
}

impl Operator for BatchNormBackward {
    fn name(&self) -> &'static str {
        "batch_norm_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, weight, mean, variance, dy] = inputs_f32(inputs)?;
        check(self.epsilon, &x, &[("weight", &weight), ("mean", &mean), ("variance", &variance)])?;
        expect_shape("dy", &dy, &x)?;
        let vector = TensorType::f32([x[1]]);
        Ok(vec![TensorType::f32(x), vector.clone(), vector])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let [x, weight, mean, variance, dy] = inputs else { unreachable!("infer asks for five inputs") };
        let (channel, n) = (channels(&x.shape), per_channel(&x.shape));
        let inverse: Vec<f64> = variance.data.iter().map(|v| 1.0 / (v + self.epsilon as f64).sqrt()).collect();
        let distance = |i: usize| x.data[i] - mean.data[channel(i)];
        let dbias = sums(&x.shape, |i| dy.data[i]);
        let products = sums(&x.shape, |i| dy.data[i] * distance(i));
        let dweight: Vec<f64> = products.iter().zip(&inverse).map(|(sum, r)| sum * r).collect();
        let dx = |i: usize| {
            let c = channel(i);
            let shared = dbias[c] / n + distance(i) * inverse[c] * dweight[c] / n;
            weight.data[c] * inverse[c] * (dy.data[i] - shared)
        };
        let dx = Array { shape: x.shape.clone(), data: (0..x.data.len()).map(dx).collect() };
        vec![dx, vector(dweight), vector(dbias)]
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        let [x, weight, mean, variance, dy] = inputs else { unreachable!("infer asks for five inputs") };
        let (channel, n) = (channels(&x.shape), per_channel(&x.shape));
        let inverse: Vec<f64> = variance.data.iter().map(|v| 1.0 / (v + self.epsilon as f64).sqrt()).collect();
        let distance = |i: usize| (x.data[i] - mean.data[channel(i)]).abs() + FLUSHED;
        let of_sum = |squares: Vec<f64>, sums: &Array| -> Vec<f64> {
            squares.into_iter().zip(&sums.data).map(|(square, sum)| square.sqrt() + sum.abs()).collect()
        };
        let dbias = of_sum(sums(&x.shape, |i| dy.data[i].powi(2)), &outputs[2]);
        let products = sums(&x.shape, |i| (dy.data[i] * distance(i)).powi(2));
        let products = products.into_iter().zip(&inverse).map(|(square, r)| square * r * r).collect();
        let dweight = of_sum(products, &outputs[1]);
        let dx = |i: usize| {
            let c = channel(i);
            let shared = dbias[c] / n + distance(i) * inverse[c] * dweight[c] / n;
            2.0 * weight.data[c].abs() * inverse[c] * (dy.data[i].abs() + shared + FLUSHED)
        };
        let dx = Array { shape: x.shape.clone(), data: (0..x.data.len()).map(dx).collect() };
        vec![dx, vector(dweight), vector(dbias)]
    }

    fn cases() -> Vec<Case> {
        let case = |(name, x): (&'static str, Shape)| {
            let (channels, terms) = (x[1], x.elements() / x[1]);
            let vector = || CaseInput::normal([channels]);
            let variance = CaseInput::f32([channels], Fill::Uniform(0.5, 2.0));
            let inputs = vec![CaseInput::normal(x.clone()), vector(), vector(), variance, CaseInput::normal(x)];
            Case::new(BatchNormBackward { epsilon: 1e-5 }, name, inputs, terms)
        };
        let far = |(name, x, mean): (&'static str, Fill, f32)| {
            let shape = [3, 2, 13, 11];
            let of = |fill| CaseInput::f32([2], fill);
            let [mean, variance] = [Fill::Given(vec![mean]), Fill::Given(vec![0.08, 0.0])].map(of);
            let inputs =
                vec![CaseInput::f32(shape, x), CaseInput::normal([2]), mean, variance, CaseInput::normal(shape)];
            Case::new(BatchNormBackward { epsilon: 1e-3 }, name, inputs, 3 * 13 * 11)
        };
        let values = [
            ("far from zero", Fill::Uniform(1000.0, 1001.0), 1000.5),
            ("all equal", Fill::Given(vec![-2.5]), -2.5),
            ("positive sums", Fill::Uniform(0.5, 1.5), 0.0),
        ];
        shapes().into_iter().map(case).chain(values.map(far)).collect()
    }

    fn random(draw: &mut Draw) -> Case {
        let (x, epsilon) = random(draw);
        let (channels, terms) = (x[1], x.iter().product::<usize>() / x[1]);
        let inputs = vec![
            CaseInput::f32(x.clone(), draw.any().up_to(LARGEST)),
            CaseInput::f32([channels], parameter(draw)),
            CaseInput::normal([channels]),
            CaseInput::f32([channels], variance(draw)),
            CaseInput::f32(x, draw.finite().up_to(LARGEST)),
        ];
        Case::new(BatchNormBackward { epsilon }, "random", inputs, terms)
    }
}

/// A weight or bias; what subnormal weights leave of their digits is nothing that large values could be made of.
fn parameter(draw: &mut Draw) -> Fill {
    match draw.below(4) {
        0 | 1 => Fill::Normal(1.0),
        2 => Fill::Ties,
        _ => Fill::Normal(1e4),
    }
}

/// What a variance may be: also 0.
fn variance(draw: &mut Draw) -> Fill {
    match draw.below(2) {
        0 => Fill::Uniform(0.5, 2.0),
        _ => Fill::Given(vec![0.0, 0.25, 1e6]),
    }
}

/// Of random cases of the gradient: dy times the square of x is within f32.
const LARGEST: f32 = 1e6;

impl Operator for BatchNormInference {
    fn name(&self) -> &'static str {
        "batch_norm_inference"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, weight, bias, mean, variance] = inputs_f32(inputs)?;
        let vectors = [("weight", &weight), ("bias", &bias), ("mean", &mean), ("variance", &variance)];
        check(self.epsilon, &x, &vectors)?;
        Ok(vec![TensorType::f32(x)])
    }

    /// To the input alone, as a layer that is trained no more needs it: dx = dy * weight / sqrt(variance + epsilon), the same op again
    /// without a mean and a bias.
    fn gradient(&self, graph: &mut Graph, forward: &Forward) -> Result<Vec<Option<ValueId>>> {
        if forward.wanted[1..].contains(&true) {
            return Err(no_gradient(self));
        }
        let [_, weight, _, _, variance] = forward.inputs else { unreachable!("infer asks for five inputs") };
        let shape = graph[*weight].ty.shape.clone();
        let zero = graph.apply(forward.layer, super::Fill { shape, value: 0.0 }, &[])?;
        let dx = graph.apply(forward.layer, self.clone(), &[forward.cotangent, *weight, zero, zero, *variance])?;
        Ok(vec![Some(dx), None, None, None, None])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let [x, weight, bias, mean, variance] = inputs else { unreachable!("infer asks for five inputs") };
        vec![normalise(x, &weight.data, &bias.data, &mean.data, &variance.data, self.epsilon)]
    }

    fn scale(&self, inputs: &[Array], _: &[Array]) -> Vec<Array> {
        let [x, weight, bias, mean, variance] = inputs else { unreachable!("infer asks for five inputs") };
        let exact = vec![0.0; mean.data.len()];
        let rounded: Vec<f64> = variance.data.iter().map(|v| v.abs()).collect();
        let statistics = [&mean.data[..], &variance.data];
        vec![normalised_scale([x, weight, bias], statistics, [&exact, &rounded], self.epsilon)]
    }

    fn cases() -> Vec<Case> {
        let case = |(name, x): (&'static str, Shape)| {
            let vector = || CaseInput::normal([x[1]]);
            let variance = CaseInput::f32([x[1]], Fill::Uniform(0.0, 2.0));
            let inputs = vec![CaseInput::normal(x.clone()), vector(), vector(), vector(), variance];
            Case::new(BatchNormInference { epsilon: 1e-5 }, name, inputs, 1)
        };
        shapes().into_iter().map(case).collect()
    }

    fn random(draw: &mut Draw) -> Case {
        let (x, epsilon) = random(draw);
        let inputs = vec![
            CaseInput::f32(x.clone(), draw.any()),
            CaseInput::f32([x[1]], parameter(draw)),
            CaseInput::f32([x[1]], parameter(draw)),
            CaseInput::f32([x[1]], draw.finite()),
            CaseInput::f32([x[1]], variance(draw)),
        ];
        Case::new(BatchNormInference { epsilon }, "random", inputs, 1)
    }
}

/// A matrix or planes, of at least eight elements a channel: fewer may be nearly equal, a slope that differences do not find.
fn random(draw: &mut Draw) -> (Vec<usize>, f32) {
    let x = match draw.below(2) {
        0 => vec![draw.between(8, 40), draw.between(1, 300)],
        _ => {
            let [n, c, h, w] = draw.nchw();
            vec![if n * h * w < 8 { 8 } else { n }, c, h, w]
        }
    };
    (x, draw.pick([1e-5, 1e-3]))
}

fn shapes() -> [(&'static str, Shape); 13] {
    [
        ("one of everything", [1, 1].into()),
        ("one element a channel", [1, 5, 1, 1].into()),
        ("two elements a channel", [2, 3, 1, 1].into()),
        ("matrix", [15, 37].into()),
        ("planes", [3, 7, 5, 9].into()),
        ("rows of whole vec4s", [2, 12, 4, 4].into()),
        ("planes longer than a workgroup", [9, 3, 55, 55].into()),
        ("pictures in groups", [5, 300, 2, 3].into()),
        ("more rows than an invocation sums", [33_000, 3].into()),
        ("many channels", [2, 4099, 1, 3].into()),
        ("alexnet conv1", [2, 96, 55, 55].into()),
        ("resnet conv1", [2, 64, 112, 112].into()),
        ("resnet layer4", [8, 512, 7, 7].into()),
    ]
}
