//! Local response normalisation across channels (Krizhevsky 2012, section 3.3).

use super::case::{Case, CaseInput, Fill};
use super::draw::Draw;
use super::{Array, Forward, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::{Shape, TensorType};

/// `b[c] = a[c] / (k + alpha * sum of a[j]^2 over the channels j in the window around c)^beta`, j of c's group.
/// Input: a [N, C, H, W]. Output: b, as a. alpha is the paper's: it is NOT divided by `size` (PyTorch, Caffe, ONNX divide).
/// The bracket and its powers must be normal numbers of f32: with |a| from 1e19 on the squares are infinite, and b is 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Lrn {
    /// Channels in the window, centred; odd: c - size/2 ..= c + size/2, clipped at the group's first and last channel.
    pub size: usize,
    /// Paper: 1e-4.
    pub alpha: f32,
    /// Paper: 0.75.
    pub beta: f32,
    /// Paper: 2.
    pub k: f32,
    /// Equal parts of the channels that do not see each other: 2 on the paper's two GPUs, else 1.
    pub groups: usize,
}

/// Gradient of [`Lrn`]. Inputs: a, db, both [N, C, H, W]. Output: da.
/// `da[c] = db[c] * s[c]^-beta - 2*alpha*beta * a[c] * sum over j near c of db[j]*a[j]*s[j]^(-beta-1)`, s the bracket above.
#[derive(Clone, Debug, PartialEq)]
pub struct LrnBackward {
    /// The forward op.
    pub lrn: Lrn,
}

/// Of random cases: what the gradient makes of its square to the power of -1.75 is still a normal number.
const LARGEST: f32 = 1e6;

impl Lrn {
    fn window(&self, c: usize, channels: usize) -> std::ops::Range<usize> {
        c.saturating_sub(self.size / 2)..(c + self.size / 2 + 1).min(channels)
    }

    fn random(draw: &mut Draw) -> (Lrn, [usize; 4]) {
        let (size, alpha) = (1 + 2 * draw.below(6), draw.pick([0.5, 1e-4]));
        let (beta, k, mut x) = (draw.pick([0.75, 0.5, 1.0, 1.75]), draw.pick([1.0, 2.0]), draw.nchw());
        let groups = draw.pick([1, 1, 1, 2, 3]);
        x[1] = x[1].next_multiple_of(groups);
        (Lrn { size, alpha, beta, k, groups }, x)
    }

    fn check(&self, x: &Shape) -> Result<(), String> {
        let [_, channels, ..] = x.nchw()?;
        if self.groups == 0 || channels % self.groups != 0 {
            return Err(format!("{channels} channels cannot be divided into {} groups", self.groups));
        }
        if self.size.is_multiple_of(2) {
            return Err(format!("size must be odd (a window centred on its channel), got {}", self.size));
        }
        Ok(())
    }

    /// k + alpha * sum of squares, per element.
    fn bracket(&self, a: &Array) -> Vec<f64> {
        let (channels, plane) = (a.shape[1] / self.groups, a.shape[2] * a.shape[3]);
        let sum = |i: usize| {
            let c = i / plane % channels;
            self.window(c, channels).map(|j| a.data[i - c * plane + j * plane].powi(2)).sum::<f64>()
        };
        (0..a.data.len()).map(|i| self.k as f64 + self.alpha as f64 * sum(i)).collect()
    }
}

impl Operator for Lrn {
    fn name(&self) -> &'static str {
        "lrn"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [a] = inputs_f32(inputs)?;
        self.check(&a)?;
        Ok(vec![TensorType::f32(a)])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        Ok(vec![node.want(0, graph, LrnBackward { lrn: self.clone() }, &[node.inputs[0], node.cotangent])?])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let a = &inputs[0];
        let data = a.data.iter().zip(self.bracket(a)).map(|(a, s)| a * s.powf(-self.beta as f64)).collect();
        vec![Array { shape: a.shape.clone(), data }]
    }

    /// pow's error grows with its exponent times the logarithm of its base.
    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        let power = self.bracket(&inputs[0]).into_iter().map(|s| 1.0 + self.beta as f64 * s.log2().abs().min(128.0));
        let data = outputs[0].data.iter().zip(power).map(|(b, power)| b.abs() * power).collect();
        vec![Array { shape: outputs[0].shape.clone(), data }]
    }

    fn cases() -> Vec<Case> {
        let case = |(name, lrn, shape): (&'static str, Lrn, [usize; 4])| {
            Case::new(lrn.clone(), name, vec![CaseInput::normal(shape)], lrn.size)
        };
        variants().map(case).into()
    }

    fn random(draw: &mut Draw) -> Case {
        let (lrn, shape) = Lrn::random(draw);
        let terms = lrn.size;
        Case::new(lrn, "random", vec![CaseInput::f32(shape, draw.any().up_to(LARGEST))], terms)
    }
}

impl Operator for LrnBackward {
    fn name(&self) -> &'static str {
        "lrn_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [a, db] = inputs_f32(inputs)?;
        self.lrn.check(&a)?;
        expect_shape("db", &db, &a)?;
        Ok(vec![TensorType::f32(a)])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let s = self.lrn.bracket(&inputs[0]);
        self.formula(&inputs[0], &inputs[1], &s, |own, others| own - others, |part, _| part)
    }

    fn scale(&self, inputs: &[Array], _: &[Array]) -> Vec<Array> {
        let s = self.lrn.bracket(&inputs[0]);
        let power = |s: f64| 1.0 + (1.0 + self.lrn.beta as f64) * s.log2().abs().min(128.0);
        self.formula(&inputs[0], &inputs[1], &s, |db, sum| db.abs() + sum.abs(), |term, s| term.abs() * power(s))
    }

    fn cases() -> Vec<Case> {
        let case = |(name, lrn, shape): (&'static str, Lrn, [usize; 4])| {
            let inputs = vec![CaseInput::normal(shape), CaseInput::normal(shape)];
            Case::new(LrnBackward { lrn: lrn.clone() }, name, inputs, lrn.size)
        };
        // Finite elements next to it have nothing of it.
        let mut values = vec![0.5; 23];
        (values[3], values[7], values[11]) = (f32::INFINITY, -1.5, f32::NEG_INFINITY);
        let [_, _, _, _, (_, strong, _), ..] = variants();
        let inputs = vec![CaseInput::f32([2, 7, 3, 11], Fill::Given(values)), CaseInput::normal([2, 7, 3, 11])];
        let mut cases: Vec<Case> = variants().map(case).into();
        cases.push(Case::new(LrnBackward { lrn: strong.clone() }, "infinite neighbours", inputs, strong.size));
        cases
    }

    fn random(draw: &mut Draw) -> Case {
        let (lrn, shape) = Lrn::random(draw);
        let terms = lrn.size;
        let inputs = vec![CaseInput::f32(shape, draw.any().up_to(LARGEST)), CaseInput::f32(shape, draw.finite())];
        Case::new(LrnBackward { lrn }, "random", inputs, terms)
    }
}

impl LrnBackward {
    /// `join(db * s^-beta, 2 alpha beta * a * sum of terms)`, each part with its base s seen by `part`.
    fn formula(
        &self,
        a: &Array,
        db: &Array,
        s: &[f64],
        join: impl Fn(f64, f64) -> f64,
        part: impl Fn(f64, f64) -> f64,
    ) -> Vec<Array> {
        let (channels, plane) = (a.shape[1] / self.lrn.groups, a.shape[2] * a.shape[3]);
        let (alpha, beta) = (self.lrn.alpha as f64, self.lrn.beta as f64);
        let term = |i: usize| part(db.data[i] * a.data[i] * s[i].powf(-beta - 1.0), s[i]);
        let da = |i: usize| {
            let c = i / plane % channels;
            // The window is symmetric: channel c is in the windows of just the channels in its own.
            let sum: f64 = self.lrn.window(c, channels).map(|j| term(i - c * plane + j * plane)).sum();
            join(part(db.data[i] * s[i].powf(-beta), s[i]), 2.0 * alpha * beta * a.data[i] * sum)
        };
        vec![Array { shape: a.shape.clone(), data: (0..a.data.len()).map(da).collect() }]
    }
}

/// The paper's constants, and large ones that make every part of the formula show.
fn variants() -> [(&'static str, Lrn, [usize; 4]); 11] {
    let paper = Lrn { size: 5, alpha: 1e-4, beta: 0.75, k: 2.0, groups: 1 };
    let strong = Lrn { size: 5, alpha: 0.5, beta: 0.75, k: 1.0, groups: 1 };
    [
        ("paper", paper.clone(), [2, 11, 7, 5]),
        ("paper, many channels", paper.clone(), [1, 96, 13, 13]),
        ("alexnet norm1", paper.clone(), [2, 96, 55, 55]),
        ("alexnet norm2", paper, [3, 256, 27, 27]),
        ("strong", strong.clone(), [3, 9, 4, 6]),
        ("strong, many channels", strong.clone(), [2, 33, 3, 5]),
        ("fewer channels than the window", strong.clone(), [2, 2, 3, 5]),
        ("another beta", Lrn { beta: 0.5, size: 3, ..strong.clone() }, [2, 7, 3, 3]),
        ("two towers", Lrn { groups: 2, ..strong.clone() }, [3, 10, 5, 7]),
        ("groups smaller than the window, another size", Lrn { groups: 3, size: 7, ..strong.clone() }, [2, 6, 3, 5]),
        ("a window of one", Lrn { size: 1, ..strong }, [1, 4, 5, 3]),
    ]
}
