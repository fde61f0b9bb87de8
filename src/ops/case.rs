//! Test cases of the ops: one list drives correctness on every backend, gradients by central differences, and timing.

use super::{Array, Op};
use crate::rng::{Philox, stream};
use crate::tensor::{DType, Data, Shape, Tensor, TensorType};

/// How an input of a case is filled. All are functions of the case's seed and the input's number.
#[derive(Clone, Debug)]
pub enum Fill {
    /// N(0, sigma).
    Normal(f32),
    /// Uniform in [low, high): for inputs that must stay positive, and away from kinks.
    Uniform(f32, f32),
    /// Normal, rounded to multiples of 1/2: exact ties for max-pool, exact zeros for ReLU (no gradient check there).
    Ties,
    /// Whole numbers below `n`: labels. Every fifth is [`super::IGNORE`] when `ignore` is set.
    Labels {
        /// Number of classes.
        n: u32,
        /// Mix in ignored labels.
        ignore: bool,
    },
    /// N(0, 1) with NaN and infinities of both signs here and there.
    NonFinite,
    /// N(0, 1) with negative infinity here and there: values that are masked.
    Masked,
    /// N(0, 1), but one element, which is NaN or an infinity: what is summed up over all is not NaN each time.
    OneNonFinite,
    /// Zeros, and one 1e4 at this place.
    Spike(usize),
    /// Labels that are all [`super::IGNORE`].
    AllIgnored,
    /// Random bytes: pixels.
    Bytes,
    /// These numbers, repeated.
    Given(Vec<f32>),
    /// A random-counter input: `[seed low, seed high, step, 0]`.
    Counter,
}

/// One input of a case.
#[derive(Clone, Debug)]
pub struct CaseInput {
    /// Type.
    pub ty: TensorType,
    /// Values.
    pub fill: Fill,
}

/// An op with its inputs.
#[derive(Clone, Debug)]
pub struct Case {
    /// The op.
    pub op: Op,
    /// What is special about the case, for messages.
    pub name: String,
    /// Inputs in the op's order.
    pub inputs: Vec<CaseInput>,
    /// Longest chain of additions behind one output element: sets the tolerance, see [`super::tolerance::Expected::of`].
    pub terms: usize,
    /// Whether central differences may check the gradient (false at kinks and exact ties, and where it would be slow).
    pub differentiable: bool,
}

impl Case {
    /// A case whose longest sum behind an output element has `terms` terms.
    pub fn new(op: impl Into<Op>, name: impl Into<String>, inputs: Vec<CaseInput>, terms: usize) -> Self {
        Case { op: op.into(), name: name.into(), inputs, terms, differentiable: true }
    }

    /// The same case under another name.
    pub fn named(mut self, name: String) -> Self {
        self.name = name;
        self
    }

    /// What messages call it.
    pub fn label(&self) -> String {
        format!("{} [{}]", self.op.name(), self.name)
    }

    /// The same case, left out of the central-difference check.
    pub fn without_gradient(mut self) -> Self {
        self.differentiable = false;
        self
    }

    /// The same op on values from N(0, 1), where its formula has a slope: for central differences of a random case.
    pub fn smooth(mut self) -> Self {
        for input in &mut self.inputs {
            input.fill = match &input.fill {
                kept if matches!(kept, Fill::Uniform(..)) || input.ty.dtype != DType::F32 => kept.clone(),
                // Variances.
                Fill::Given(values) if values.iter().all(|v| *v >= 0.0) => Fill::Uniform(0.5, 2.0),
                _ => Fill::Normal(1.0),
            };
        }
        self
    }

    /// The inputs' types.
    pub fn types(&self) -> Vec<TensorType> {
        self.inputs.iter().map(|input| input.ty.clone()).collect()
    }

    /// The inputs' values. A case's seed changes them, nothing else does.
    pub fn tensors(&self, seed: u64) -> Vec<Tensor> {
        self.inputs.iter().enumerate().map(|(number, input)| input.tensor(seed, number as u32)).collect()
    }
}

impl Fill {
    /// The same, but of no larger deviation: for ops whose formula leaves f32's range early.
    pub(super) fn up_to(self, sigma: f32) -> Self {
        match self {
            Fill::Normal(large) => Fill::Normal(large.min(sigma)),
            other => other,
        }
    }
}

impl CaseInput {
    /// f32 input.
    pub fn f32(shape: impl Into<Shape>, fill: Fill) -> Self {
        CaseInput { ty: TensorType::f32(shape), fill }
    }

    /// f32 input from N(0, 1).
    pub fn normal(shape: impl Into<Shape>) -> Self {
        Self::f32(shape, Fill::Normal(1.0))
    }

    /// u32 labels `[N]` below `classes`.
    pub fn labels(n: usize, classes: usize) -> Self {
        let fill = Fill::Labels { n: classes as u32, ignore: false };
        CaseInput { ty: TensorType::new([n], DType::U32), fill }
    }

    /// The random counter `[4]`.
    pub fn counter() -> Self {
        CaseInput { ty: TensorType::new([4], DType::U32), fill: Fill::Counter }
    }

    fn tensor(&self, seed: u64, number: u32) -> Tensor {
        let n = self.ty.shape.elements();
        let random = Philox { seed, stream: stream::TEST, step: number };
        let normal = |sigma: f32| {
            let mut x = vec![0.0; n];
            random.normal(&mut x);
            x.iter_mut().for_each(|v| *v *= sigma);
            x
        };
        let data = match &self.fill {
            Fill::Normal(sigma) => Data::F32(normal(*sigma)),
            Fill::Uniform(low, high) => {
                Data::F32((0..n).map(|i| low + (high - low) * random.uniform(i as u32)).collect())
            }
            Fill::Ties => Data::F32(normal(1.0).iter().map(|v| (v * 2.0).round() / 2.0).collect()),
            Fill::NonFinite => {
                // The NaN that processors make, and those whose bits are nearest to infinity and farthest from it.
                let nan = [0x7fc0_0000, 0x7f80_0001, 0xffff_ffff].map(f32::from_bits);
                let odd = [nan[0], f32::INFINITY, f32::NEG_INFINITY, nan[1], nan[2]];
                let value = |(i, v)| match random.word(i as u32) % 64 {
                    word if word < 5 => odd[word as usize],
                    _ => v,
                };
                Data::F32(normal(1.0).into_iter().enumerate().map(value).collect())
            }
            Fill::Masked => {
                let value = |(i, v)| if random.word(i as u32) < u32::MAX / 16 { f32::NEG_INFINITY } else { v };
                Data::F32(normal(1.0).into_iter().enumerate().map(value).collect())
            }
            Fill::OneNonFinite => {
                let (mut data, [place, which, ..]) = (normal(1.0), random.block(u32::MAX));
                let odd = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
                if let Some(value) = data.get_mut(place as usize % n.max(1)) {
                    *value = odd[which as usize % odd.len()];
                }
                Data::F32(data)
            }
            Fill::Labels { n: classes, ignore } => Data::U32(
                (0..n)
                    .map(|i| if *ignore && i % 5 == 2 { super::IGNORE } else { random.word(i as u32) % classes })
                    .collect(),
            ),
            Fill::Spike(place) => Data::F32((0..n).map(|i| if i == *place { 1e4 } else { 0.0 }).collect()),
            Fill::AllIgnored => Data::U32(vec![super::IGNORE; n]),
            Fill::Bytes => Data::U8((0..n).map(|i| random.word(i as u32) as u8).collect()),
            Fill::Given(values) => Data::F32((0..n).map(|i| values[i % values.len()]).collect()),
            Fill::Counter => Data::U32(vec![random.word(0), random.word(1), random.word(2), 0]),
        };
        Tensor::new(self.ty.shape.clone(), data).expect("a case's fill makes as many elements as its shape has")
    }
}

impl From<&Tensor> for Array {
    fn from(tensor: &Tensor) -> Array {
        let data = match tensor.data() {
            Data::F32(v) => v.iter().map(|&x| x as f64).collect(),
            Data::U32(v) => v.iter().map(|&x| x as f64).collect(),
            Data::U8(v) => v.iter().map(|&x| x as f64).collect(),
        };
        Array { shape: tensor.shape().clone(), data }
    }
}
