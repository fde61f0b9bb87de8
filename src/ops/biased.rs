//! A convolution or fully connected layer with its bias and ReLU in one: the sums are stored once, finished, and not read and written
//! again for each. [`crate::graph::fuse`] puts it in the place of the two or three.

use super::case::{Case, CaseInput};
use super::draw::Draw;
use super::{Array, Conv2d, Forward, Linear, Op, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::TensorType;

/// [`Conv2d`] or [`Linear`], then [`super::Bias`], then [`super::Activation`] where it is ReLU. Inputs: the product's x and w, and the bias
/// `[C]`. Output: y `[N, C, ...]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Biased {
    /// What the bias is added to.
    pub product: Product,
    /// Whether ReLU follows.
    pub relu: bool,
}

/// What sums up products.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each variant is the struct of its name
pub enum Product {
    Conv2d(Conv2d),
    Linear(Linear),
}

impl Product {
    /// The product as an op of its own.
    fn op(&self) -> &dyn Operator {
        match self {
            Product::Conv2d(conv) => conv,
            Product::Linear(linear) => linear,
        }
    }

    /// The product of an op that is one.
    pub fn of(op: &Op) -> Option<Product> {
        match op {
            Op::Conv2d(conv) => Some(Product::Conv2d(conv.clone())),
            Op::Linear(linear) => Some(Product::Linear(linear.clone())),
            _ => None,
        }
    }
}

/// Adds to each element of y what `of` says of its channel.
fn add(y: &mut Array, of: impl Fn(usize) -> f64) {
    let (channels, inner) = (y.shape[1], y.shape[2..].iter().product::<usize>());
    y.data.iter_mut().enumerate().for_each(|(i, y)| *y += of(i / inner % channels));
}

impl Operator for Biased {
    fn name(&self) -> &'static str {
        match (&self.product, self.relu) {
            (Product::Conv2d(_), false) => "conv2d_bias",
            (Product::Conv2d(_), true) => "conv2d_bias_relu",
            (Product::Linear(_), false) => "linear_bias",
            (Product::Linear(_), true) => "linear_bias_relu",
        }
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [_, _, bias] = inputs_f32(inputs)?;
        let y = self.product.op().infer(&inputs[..2])?;
        expect_shape("the bias", &bias, &[y[0].shape[1]].into())?;
        Ok(y)
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let mut y = self.product.op().reference(&inputs[..2]);
        add(&mut y[0], |channel| inputs[2].data[channel]);
        if self.relu {
            y[0].data.iter_mut().filter(|y| **y <= 0.0).for_each(|y| *y = 0.0); // NaN stays
        }
        y
    }

    fn macs(&self, inputs: &[TensorType]) -> u64 {
        self.product.op().macs(&inputs[..2])
    }

    fn scale(&self, inputs: &[Array], _: &[Array]) -> Vec<Array> {
        let y = self.product.op().reference(&inputs[..2]);
        let mut scale = self.product.op().scale(&inputs[..2], &y);
        add(&mut scale[0], |channel| inputs[2].data[channel].abs());
        scale
    }

    fn cases() -> Vec<Case> {
        // Those of large pictures are the products' own.
        let small = |case: &Case| case.op.macs(&case.types()) < 4_000_000;
        let cases = Conv2d::cases().into_iter().chain(Linear::cases()).filter(small).enumerate();
        cases.flat_map(|(n, case)| Biased::case(case, n % 3 != 0, CaseInput::normal)).collect()
    }

    fn random(draw: &mut Draw) -> Case {
        let relu = draw.below(2) == 1;
        let product = if draw.below(2) == 0 { Conv2d::random(draw) } else { Linear::random(draw) };
        let bias = draw.any();
        Biased::case(product, relu, |shape| CaseInput::f32(shape, bias)).expect("the case of a product")
    }
}

impl Biased {
    /// The product's case with a bias.
    fn case(case: Case, relu: bool, bias: impl FnOnce([usize; 1]) -> CaseInput) -> Option<Case> {
        let op = Biased { product: Product::of(&case.op)?, relu };
        let channels = case.inputs[1].ty.shape[0];
        let inputs = case.inputs.into_iter().chain([bias([channels])]).collect();
        Some(Case::new(op, case.name, inputs, case.terms + 1).without_gradient())
    }
}
