//! Cross entropy of logits against class labels (log-softmax inside, maximum subtracted), with label smoothing.

use super::case::{Case, CaseInput, Fill};
use super::draw::Draw;
use super::softmax::log_softmax;
use super::{Array, Forward, Operator, expect_shape, inputs_of};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::{DType, Shape, TensorType};

/// The label of a row that takes no part: it adds nothing to the loss, its gradient is 0, and the mean is over the others.
pub const IGNORE: u32 = u32::MAX;

/// `loss = mean over rows with a label of w * ((1-s) * -logp[label] + s * mean over classes of -logp)`. With no labelled row, 0.
/// Inputs: `logits [N, classes]`, labels `u32 [N]` (below `classes`, or [`IGNORE`]), and weights of the rows `w [N]` if it is
/// weighted (else they are 1). Output: `loss [1]`; NaN with a label that is neither, so that the mistake is seen. The differences
/// of a row's logits must be within f32.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropy {
    /// s in [0, 1).
    pub label_smoothing: f32,
    /// Whether there are weights.
    pub weighted: bool,
}

/// Gradient of [`CrossEntropy`] to the logits. Inputs: `logits [N, classes]`, labels `u32 [N]`, `dloss [1]`, and `w [N]` if it is
/// weighted. Output: dlogits: dloss / rows * w * (softmax - (1-s) * onehot - s / classes).
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropyBackward {
    /// s in [0, 1).
    pub label_smoothing: f32,
    /// Whether there are weights.
    pub weighted: bool,
}

fn check(smoothing: f32, logits: &Shape, labels: &Shape) -> Result<(), String> {
    let [n, classes] = logits.matrix()?;
    if classes == 0 {
        return Err("there are no classes".into());
    }
    if !(0.0..1.0).contains(&smoothing) {
        return Err(format!("label smoothing must be in [0, 1), got {smoothing}"));
    }
    expect_shape("labels", labels, &[n].into())
}

/// The inputs without the weights, which are the last, of one number a row.
fn without_weights(weighted: bool, inputs: &[TensorType]) -> Result<&[TensorType], String> {
    match (weighted, inputs) {
        (true, [others @ .., weights]) => {
            let rows = inputs[0].shape.first().copied().unwrap_or(0);
            let [weights] = inputs_of([DType::F32], std::slice::from_ref(weights))?;
            expect_shape("weights", &weights, &[rows].into()).map(|()| others)
        }
        _ => Ok(inputs),
    }
}

/// The weight of a row.
fn weight(weights: Option<&Array>, row: usize) -> f64 {
    weights.map_or(1.0, |weights| weights.data[row])
}

/// Rows that have a label, with it.
fn labelled(labels: &Array) -> impl Iterator<Item = (usize, usize)> + '_ {
    let labels = labels.data.iter().enumerate();
    labels.filter(|&(_, &l)| l != IGNORE as f64).map(|(row, &l)| (row, l as usize))
}

impl Operator for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let inputs = without_weights(self.weighted, inputs)?;
        let [logits, labels] = inputs_of([DType::F32, DType::U32], inputs)?;
        check(self.label_smoothing, &logits, &labels)?;
        Ok(vec![TensorType::f32([1])])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        let backward = CrossEntropyBackward { label_smoothing: self.label_smoothing, weighted: self.weighted };
        let mut inputs = vec![node.inputs[0], node.inputs[1], node.cotangent];
        inputs.extend(node.inputs.get(2));
        let mut gradients = vec![node.want(0, graph, backward, &inputs)?];
        gradients.resize(node.inputs.len(), None); // labels and weights are given
        Ok(gradients)
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (logits, labels) = (&inputs[0], &inputs[1]);
        let (classes, s) = (logits.shape[1], self.label_smoothing as f64);
        let rows = labelled(labels).count();
        let loss = |(row, label): (usize, usize)| {
            let log = log_softmax(&logits.data[row * classes..][..classes]);
            let uniform = || -log.iter().sum::<f64>() / classes as f64;
            let own = log.get(label).map_or(f64::NAN, |own| -own);
            // Without smoothing, an infinite logit of another class does no harm.
            weight(inputs.get(2), row) * ((1.0 - s) * own + if s > 0.0 { s * uniform() } else { 0.0 })
        };
        let sum: f64 = labelled(labels).map(loss).sum();
        vec![Array { shape: [1].into(), data: vec![if rows == 0 { 0.0 } else { sum / rows as f64 }] }]
    }

    fn scale(&self, inputs: &[Array], _: &[Array]) -> Vec<Array> {
        let (logits, labels) = (&inputs[0], &inputs[1]);
        let classes = logits.shape[1];
        let rows = labelled(labels).count().max(1) as f64;
        let size = |(row, label): (usize, usize)| {
            let log = log_softmax(&logits.data[row * classes..][..classes]);
            let smoothed = log.iter().map(|log| log.abs()).sum::<f64>() / classes as f64;
            let smoothed = if self.label_smoothing > 0.0 { smoothed } else { 0.0 };
            let size = 1.0 + 2.0 * (classes as f64).ln() + log.get(label).map_or(0.0, |own| own.abs()) + smoothed;
            weight(inputs.get(2), row).abs() * size
        };
        vec![Array { shape: [1].into(), data: vec![labelled(labels).map(size).sum::<f64>() / rows] }]
    }

    fn cases() -> Vec<Case> {
        variants(|op, name, logits, labels| {
            let terms = logits.ty.shape.iter().sum(); // over the classes, then over the rows
            let weights = op.weights(&logits);
            Case::new(op, name, [logits, labels].into_iter().chain(weights).collect(), terms)
        })
    }

    fn random(draw: &mut Draw) -> Case {
        let (op, logits, labels) = random(draw);
        let (terms, weights) = (logits.ty.shape.iter().sum(), op.weights(&logits));
        Case::new(op, "random", [logits, labels].into_iter().chain(weights).collect(), terms)
    }
}

impl Operator for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let inputs = without_weights(self.weighted, inputs)?;
        let [logits, labels, dloss] = inputs_of([DType::F32, DType::U32, DType::F32], inputs)?;
        check(self.label_smoothing, &logits, &labels)?;
        expect_shape("dloss", &dloss, &[1].into())?;
        Ok(vec![TensorType::f32(logits)])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (logits, labels, dloss) = (&inputs[0], &inputs[1], inputs[2].data[0]);
        let (classes, s) = (logits.shape[1], self.label_smoothing as f64);
        let rows = labelled(labels).count() as f64;
        let mut dx = Array::zeros(logits.shape.clone());
        for (row, label) in labelled(labels) {
            let log = log_softmax(&logits.data[row * classes..][..classes]);
            for (class, dx) in dx.data[row * classes..][..classes].iter_mut().enumerate() {
                let target = if class == label { 1.0 - s } else { 0.0 } + s / classes as f64;
                *dx = dloss / rows * weight(inputs.get(3), row) * (log[class].exp() - target);
            }
        }
        vec![dx]
    }

    fn scale(&self, inputs: &[Array], _: &[Array]) -> Vec<Array> {
        let (logits, labels, dloss) = (&inputs[0], &inputs[1], inputs[2].data[0].abs());
        let classes = logits.shape[1];
        let rows = labelled(labels).count() as f64;
        let mut scale = Array::zeros(logits.shape.clone());
        for (row, _) in labelled(labels) {
            let log = log_softmax(&logits.data[row * classes..][..classes]);
            for (scale, log) in scale.data[row * classes..][..classes].iter_mut().zip(log) {
                *scale = dloss / rows * weight(inputs.get(3), row).abs() * (1.0 + log.exp() * log.abs().min(110.0));
            }
        }
        vec![scale]
    }

    fn cases() -> Vec<Case> {
        variants(|CrossEntropy { label_smoothing, weighted }, name, logits, labels| {
            let (terms, weights) = (logits.ty.shape[1], CrossEntropy { label_smoothing, weighted }.weights(&logits));
            let inputs = [logits, labels, CaseInput::normal([1])].into_iter().chain(weights).collect();
            Case::new(CrossEntropyBackward { label_smoothing, weighted }, name, inputs, terms)
        })
    }

    fn random(draw: &mut Draw) -> Case {
        let (op, logits, labels) = random(draw);
        let (terms, weights) = (logits.ty.shape[1], op.weights(&logits));
        let inputs = [logits, labels, CaseInput::normal([1])].into_iter().chain(weights).collect();
        let CrossEntropy { label_smoothing, weighted } = op;
        Case::new(CrossEntropyBackward { label_smoothing, weighted }, "random", inputs, terms)
    }
}

impl CrossEntropy {
    /// The input that a case has if it is weighted.
    fn weights(&self, logits: &CaseInput) -> Option<CaseInput> {
        self.weighted.then(|| CaseInput::f32([logits.ty.shape[0]], Fill::Uniform(0.0, 3.0)))
    }
}

/// Forward op, logits, labels.
fn random(draw: &mut Draw) -> (CrossEntropy, CaseInput, CaseInput) {
    let (n, classes) = (draw.between(1, 40), draw.between(1, 600));
    let fill = Fill::Labels { n: classes as u32, ignore: draw.below(2) == 1 };
    let labels = CaseInput { ty: TensorType::new([n], DType::U32), fill };
    let op = CrossEntropy { label_smoothing: draw.pick([0.0, 0.1, 0.5]), weighted: draw.below(2) == 1 };
    (op, CaseInput::f32([n, classes], draw.any()), labels)
}

/// `of(op, name, logits, labels)` over sizes, smoothing, ignored rows and weights.
fn variants(of: impl Fn(CrossEntropy, String, CaseInput, CaseInput) -> Case) -> Vec<Case> {
    let case = |label_smoothing, name, logits, labels| {
        of(CrossEntropy { label_smoothing, weighted: false }, name, logits, labels)
    };
    let mut cases = Vec::new();
    for (n, classes, label_smoothing, ignore) in [(1, 3, 0.0, false), (9, 7, 0.1, true), (600, 2, 0.0, true)] {
        let labels =
            CaseInput { ty: TensorType::new([n], DType::U32), fill: Fill::Labels { n: classes as u32, ignore } };
        let op = CrossEntropy { label_smoothing, weighted: true };
        let name = format!("[{n}, {classes}], weighted, smoothing {label_smoothing}");
        let case = of(op, name, CaseInput::f32([n, classes], Fill::Normal(3.0)), labels);
        cases.push(if n > 100 { case.without_gradient() } else { case });
    }
    for (n, classes) in [(1, 1), (1, 4), (2, 2), (9, 7), (33, 10), (5, 1000)] {
        for label_smoothing in [0.0, 0.1] {
            for ignore in [false, true] {
                let fill = Fill::Labels { n: classes as u32, ignore };
                let labels = CaseInput { ty: TensorType::new([n], DType::U32), fill };
                let logits = CaseInput::f32([n, classes], Fill::Normal(3.0));
                let name = format!("[{n}, {classes}], smoothing {label_smoothing}, ignored rows: {ignore}");
                cases.push(case(label_smoothing, name, logits, labels));
            }
        }
    }
    let given = Fill::Given;
    let large = CaseInput::f32([3, 4], given(vec![1e4, -1e4, 50.0, 0.0, -3.0]));
    cases.push(case(0.0, "large logits".into(), large, CaseInput::labels(3, 4)).without_gradient());
    for place in [128, 256] {
        let logits = CaseInput::f32([1, 700], Fill::Spike(place));
        let name = format!("large logit {place}");
        cases.push(case(0.1, name, logits, CaseInput::labels(1, 700)).without_gradient());
    }
    let negative = CaseInput::f32([3, 2], Fill::Given(vec![-3e38, -3.2e38]));
    cases.push(case(0.0, "large negative logits".into(), negative, CaseInput::labels(3, 2)).without_gradient());
    // Logits that are masked: no label is theirs.
    for label_smoothing in [0.0, 0.1] {
        let masked = CaseInput::f32([2, 5], given(vec![1.0, f32::NEG_INFINITY, 0.5, 2.0, 0.1]));
        let name = format!("an infinite logit, smoothing {label_smoothing}");
        let first = CaseInput { ty: TensorType::new([2], DType::U32), fill: Fill::Labels { n: 1, ignore: false } };
        cases.push(case(label_smoothing, name, masked, first).without_gradient());
    }
    // Near the end of f32: what stays of a logarithm next to the maximum.
    let ties = CaseInput::f32([3, 5], given(vec![3e38, -3e37, 0.0, 3e38, -3e37]));
    cases.push(case(0.1, "large ties".into(), ties, CaseInput::labels(3, 1)).without_gradient());
    // More rows than a workgroup has invocations.
    cases
        .push(case(0.1, "many rows".into(), CaseInput::normal([600, 2]), CaseInput::labels(600, 2)).without_gradient());
    let (many, labels) = (CaseInput::normal([521, 1000]), CaseInput::labels(521, 1000));
    cases.push(case(0.1, "many rows of ImageNet".into(), many, labels).without_gradient());
    let beyond = CaseInput::labels(33, 3 + 1);
    cases.push(case(0.1, "labels beyond the classes".into(), CaseInput::normal([33, 3]), beyond).without_gradient());
    let mut nothing = CaseInput::labels(1, 4);
    nothing.ty = TensorType::new([3], DType::U32);
    nothing.fill = Fill::AllIgnored;
    cases.push(case(0.1, "no labelled row".into(), CaseInput::normal([3, 4]), nothing));
    cases
}
