//! Operators: what a graph node computes. Each file holds one op (forward beside backward): its parameters, shape rule,
//! gradient rule, f64 reference and test cases. [`ops!`](self) below is THE list; a backend implements its own trait for
//! every struct on it (`backend::cpu::CpuOp`, `backend::wgpu::WgpuOp`), and the compiler finds what is missing.
//!
//! Files that are no op: `case`, `draw` and `tolerance` are what test cases are made of, drawn from and compared within;
//! `window` is the geometry that the pools share, `augment_color` the part of `augment` that changes colours. (`reshape` has no
//! shader: it is a view; nor has `biased`, whose part is `epilogue.wgsl` in those of the products.)
//!
//! The f64 reference is the oracle of all backends: plain loops in the order of the formula, no cleverness.

mod activation;
mod adam;
pub(crate) mod augment;
pub(crate) mod augment_color;
mod avg_pool2d;
mod batch_norm;
mod bias;
mod biased;
pub mod case;
mod concat;
mod conv2d;
mod cross_entropy;
pub mod draw;
mod dropout;
mod elementwise;
mod linear;
mod linear_update;
mod lrn;
mod max_pool2d;
pub(crate) mod mix;
mod multi_update;
mod reduce;
mod reshape;
mod running_average;
mod sgd;
mod softmax;
pub mod tolerance;
pub mod window;

use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::rng::Philox;
use crate::tensor::{DType, Shape, TensorType};
use case::Case;
use draw::{Draw, Generator};

/// A tensor of the f64 reference: every element type as f64 (u32 and u8 are exact in it).
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Extents.
    pub shape: Shape,
    /// Row-major elements.
    pub data: Vec<f64>,
}

impl Array {
    /// All zero.
    pub fn zeros(shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        let data = vec![0.0; shape.elements()];
        Array { shape, data }
    }
}

/// What every op says of itself. Inputs and outputs are in the order that the op's documentation gives.
pub trait Operator: std::fmt::Debug {
    /// The op's name as tables and errors print it: the stem of its files, and a suffix for a backward op.
    fn name(&self) -> &'static str;

    /// Types of the outputs for these inputs, or what was expected and what came (the graph adds the layer's name).
    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String>;

    /// Appends the nodes that compute the cotangent of each wanted input from `node.cotangent`; `None` where an input has
    /// no gradient (labels, counters) or is not wanted.
    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>>;

    /// The op by its formula in f64.
    fn reference(&self, inputs: &[Array]) -> Vec<Array>;

    /// Pairs (output, input) that must share memory: in-place updates and views.
    fn aliases(&self) -> &'static [(usize, usize)] {
        &[]
    }

    /// Multiply-accumulates, the unit of `convoy summary`; 0 where the op is not made of them.
    fn macs(&self, _inputs: &[TensorType]) -> u64 {
        0
    }

    /// The size of what is added up behind each output element, from the inputs and the reference's outputs: an f32
    /// implementation's rounding errors are proportional to it, see [`tolerance::Expected::of`].
    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array>;

    /// Test and timing cases: odd sizes, options, AlexNet's own shapes at a small batch.
    fn cases() -> Vec<Case>
    where
        Self: Sized;

    /// A random case: shapes, options and kinds of values, in limits that keep the reference fast.
    fn random(draw: &mut Draw) -> Case
    where
        Self: Sized;
}

/// A forward node as its gradient rule sees it. Only the first output of an op is differentiable; others are what the backward pass
/// needs, or statistics.
pub struct Forward<'a> {
    /// The layer's name.
    pub layer: &'a str,
    /// Inputs of the node.
    pub inputs: &'a [ValueId],
    /// The node's first output.
    pub output: ValueId,
    /// All outputs.
    pub outputs: &'a [ValueId],
    /// d loss / d output, of the output's type.
    pub cotangent: ValueId,
    /// Which inputs need a gradient.
    pub wanted: &'a [bool],
}

impl Forward<'_> {
    /// Appends `op` to compute the gradient of input `index`, if that one is wanted.
    fn want(&self, index: usize, graph: &mut Graph, op: impl Into<Op>, inputs: &[ValueId]) -> Result<Option<ValueId>> {
        if self.wanted[index] { graph.apply(self.layer, op, inputs).map(Some) } else { Ok(None) }
    }
}

/// The shapes of exactly `N` f32 inputs, or what came instead.
fn inputs_f32<const N: usize>(inputs: &[TensorType]) -> Result<[Shape; N], String> {
    inputs_of([DType::F32; N], inputs)
}

/// The shapes of inputs of exactly these element types, or what came instead.
fn inputs_of<const N: usize>(dtypes: [DType; N], inputs: &[TensorType]) -> Result<[Shape; N], String> {
    let got: Vec<DType> = inputs.iter().map(|t| t.dtype).collect();
    if got != dtypes {
        return Err(format!("expected inputs of types {dtypes:?}, got {got:?}"));
    }
    Ok(std::array::from_fn(|i| inputs[i].shape.clone()))
}

/// The random numbers of `stream` for a counter input `[seed low, seed high, step, 0]`.
fn philox(counter: &Array, stream: u32) -> Philox {
    let word = |i: usize| counter.data[i] as u32;
    Philox { seed: word(0) as u64 | (word(1) as u64) << 32, stream, step: word(2) }
}

/// An error unless `got` is `expected`.
fn expect_shape(what: &str, got: &Shape, expected: &Shape) -> Result<(), String> {
    if got == expected { Ok(()) } else { Err(format!("{what} must be {expected}, got {got}")) }
}

macro_rules! ops {
    ($($file:ident::{$($op:ident[$($name:literal),+]),+};)+) => {
        $(pub use $file::{$($op),+};)+

        /// Any op of the list.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)] // each variant is the struct of its name
        pub enum Op { $($($op($op)),+),+ }

        $($(impl From<$op> for Op {
            fn from(op: $op) -> Op { Op::$op(op) }
        })+)+

        impl std::ops::Deref for Op {
            type Target = dyn Operator;
            fn deref(&self) -> &(dyn Operator + 'static) {
                match self { $($(Op::$op(op) => op),+),+ }
            }
        }

        impl Op {
            /// The names of all ops and of their kinds, in the list's order: what [`Operator::name`] gives, whether cases have it or not.
            pub const NAMES: &'static [&'static str] = &[$($($($name),+),+),+];

            /// The cases of every op, in the list's order.
            pub fn all_cases() -> Vec<Case> {
                let mut all = Vec::new();
                $($(all.extend($op::cases());)+)+
                all
            }

            /// The generators of random cases, one of each op, in the list's order.
            pub fn generators() -> Vec<Generator> {
                vec![$($($op::random),+),+]
            }

            pub(crate) fn cpu(&self) -> &dyn crate::backend::cpu::CpuOp {
                match self { $($(Op::$op(op) => op),+),+ }
            }

            pub(crate) fn wgpu(&self) -> &dyn crate::backend::wgpu::WgpuOp {
                match self { $($(Op::$op(op) => op),+),+ }
            }

        }
    };
}

// THE list: file::{forward, backward}, each with the names of its kinds.
ops! {
    conv2d::{
        Conv2d["conv2d"],
        Conv2dBackwardInput["conv2d_backward_input"],
        Conv2dBackwardWeight["conv2d_backward_weight"]
    };
    linear::{
        Linear["linear"],
        LinearBackwardInput["linear_backward_input"],
        LinearBackwardWeight["linear_backward_weight"]
    };
    bias::{Bias["bias"], BiasBackward["bias_backward"]};
    activation::{
        Activation["relu", "sigmoid", "tanh", "leaky_relu", "gelu"],
        ActivationBackward[
            "relu_backward",
            "sigmoid_backward",
            "tanh_backward",
            "leaky_relu_backward",
            "gelu_backward"
        ]
    };
    lrn::{Lrn["lrn"], LrnBackward["lrn_backward"]};
    max_pool2d::{MaxPool2d["max_pool2d"], MaxPool2dBackward["max_pool2d_backward"]};
    avg_pool2d::{AvgPool2d["avg_pool2d"], AvgPool2dBackward["avg_pool2d_backward"]};
    batch_norm::{
        BatchNorm["batch_norm"],
        BatchNormBackward["batch_norm_backward"],
        BatchNormInference["batch_norm_inference"]
    };
    running_average::{RunningAverage["running_average"]};
    concat::{Concat["concat"], ConcatBackward["concat_backward"]};
    dropout::{Dropout["dropout"]};
    reshape::{Reshape["reshape"]};
    softmax::{Softmax["softmax", "log_softmax"], SoftmaxBackward["softmax_backward", "log_softmax_backward"]};
    cross_entropy::{CrossEntropy["cross_entropy"], CrossEntropyBackward["cross_entropy_backward"]};
    elementwise::{Add["add"], Mul["mul"], Scale["scale"], Fill["fill"]};
    reduce::{Reduce["sum", "mean"], Broadcast["broadcast"]};
    augment::{Augment["augment"]};
    mix::{Mix["mix"]};
    sgd::{Sgd["sgd"]};
    adam::{Adam["adam", "adamw"]};
    linear_update::{LinearUpdate["linear_update"]};
    multi_update::{MultiUpdate["multi_update"]};
    biased::{Biased["conv2d_bias", "conv2d_bias_relu", "linear_bias", "linear_bias_relu"]};
}

pub use activation::{ActivationKind, LEAKY_SLOPE};
pub use augment::Crop;
pub use augment_color::Color;
pub use biased::Product;
pub use cross_entropy::IGNORE;
pub use dropout::{DropoutScaling, Strip};
pub use linear_update::UpdateRule;
pub use reduce::ReduceKind;
