//! Max-pooling, overlapping or not, and its gradient.

use super::case::{Case, CaseInput, Fill};
use super::draw::Draw;
use super::tolerance::{relative, sums_of_products};
use super::window::{self, Window};
use super::{Array, Forward, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::TensorType;

/// `y[n,c,p,q]` = the maximum over the window; padding counts as -infinity; NaN wins. Input: `x [N, C, H, W]`. Output: `y [N, C, P, Q]`.
#[derive(Clone, Debug, PartialEq)]
pub struct MaxPool2d {
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Top and bottom, left and right; at most half the kernel.
    pub padding: [usize; 2],
    /// Rounds the output size up instead of down; a window that would start in the far padding is dropped (PyTorch's rule).
    pub ceil_mode: bool,
}

/// Gradient of [`MaxPool2d`]: each dy goes to its window's first maximum in row-major order. The place is found again from x,
/// not stored. Inputs: x [N, C, H, W], dy [N, C, P, Q]. Output: dx, as x.
#[derive(Clone, Debug, PartialEq)]
pub struct MaxPool2dBackward {
    /// The forward op.
    pub pool: MaxPool2d,
}

impl MaxPool2d {
    /// The window's geometry.
    pub fn window(&self) -> Window {
        Window { kernel: self.kernel, stride: self.stride, padding: self.padding, ceil_mode: self.ceil_mode }
    }

    /// For each output element, the flat index of its window's first maximum in x (NaN counts as the largest).
    fn first_maxima(&self, x: &Array) -> Vec<usize> {
        let window = self.window();
        let [n, c, p, q] = window.output(&x.shape).expect("checked by infer");
        let (h, w) = (x.shape[2], x.shape[3]);
        let mut maxima = Vec::with_capacity(n * c * p * q);
        for plane in 0..n * c {
            for (i, j) in (0..p).flat_map(|i| (0..q).map(move |j| (i, j))) {
                let mut best: Option<usize> = None;
                for y in window.range(0, i, h) {
                    for x_ in window.range(1, j, w) {
                        let at = (plane * h + y) * w + x_;
                        let value = x.data[at];
                        let wins = best.is_none_or(|b| value > x.data[b] || (value.is_nan() && !x.data[b].is_nan()));
                        if wins {
                            best = Some(at);
                        }
                    }
                }
                maxima.push(best.expect("infer refuses windows that lie in the padding"));
            }
        }
        maxima
    }
}

impl Operator for MaxPool2d {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs_f32(inputs)?;
        Ok(vec![TensorType::f32(self.window().output(&x)?)])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        let backward = MaxPool2dBackward { pool: self.clone() };
        Ok(vec![node.want(0, graph, backward, &[node.inputs[0], node.cotangent])?])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let shape = self.window().output(&inputs[0].shape).expect("checked by infer").into();
        let data = self.first_maxima(&inputs[0]).into_iter().map(|i| inputs[0].data[i]).collect();
        vec![Array { shape, data }]
    }

    fn scale(&self, _: &[Array], outputs: &[Array]) -> Vec<Array> {
        relative(outputs)
    }

    fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for (name, window, x) in window::cases() {
            let pool = MaxPool2d::of(window);
            cases.push(Case::new(pool.clone(), name, vec![CaseInput::normal(x)], 1));
            let ties = vec![CaseInput::f32(x, Fill::Ties)];
            cases.push(Case::new(pool, format!("{name}, ties"), ties, 1).without_gradient());
        }
        cases
    }

    fn random(draw: &mut Draw) -> Case {
        let (window, x) = Window::random(draw);
        Case::new(MaxPool2d::of(window), "random", vec![CaseInput::f32(x, draw.any())], 1)
    }
}

impl MaxPool2d {
    fn of(window: Window) -> Self {
        let Window { kernel, stride, padding, ceil_mode } = window;
        MaxPool2d { kernel, stride, padding, ceil_mode }
    }
}

impl Operator for MaxPool2dBackward {
    fn name(&self) -> &'static str {
        "max_pool2d_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, dy] = inputs_f32(inputs)?;
        expect_shape("dy", &dy, &self.pool.window().output(&x)?.into())?;
        Ok(vec![TensorType::f32(x)])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (x, dy) = (&inputs[0], &inputs[1]);
        let mut dx = Array::zeros(x.shape.clone());
        for (at, dy) in self.pool.first_maxima(x).into_iter().zip(&dy.data) {
            dx.data[at] += dy;
        }
        vec![dx]
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        sums_of_products(self, &[1], inputs, outputs)
    }

    fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for (name, window, x) in window::cases() {
            let y = window.output(&x.into()).expect("the case's shapes agree");
            let op = MaxPool2dBackward { pool: MaxPool2d::of(window) };
            for (name, fill) in [(name.to_string(), Fill::Normal(1.0)), (format!("{name}, ties"), Fill::Ties)] {
                cases.push(Case::new(op.clone(), name, vec![CaseInput::f32(x, fill), CaseInput::normal(y)], 9));
            }
            // The first of them, and not the padding, which is as large.
            let least = CaseInput::f32(x, Fill::Given(vec![f32::NEG_INFINITY]));
            let name = format!("{name}, nothing above -infinity");
            cases.push(Case::new(op, name, vec![least, CaseInput::normal(y)], 9));
        }
        cases
    }

    fn random(draw: &mut Draw) -> Case {
        let (window, x) = Window::random(draw);
        let y = window.output(&x.into()).expect("a random window fits");
        let inputs = vec![CaseInput::f32(x, draw.any()), CaseInput::f32(y, draw.finite())];
        let terms = window.overlap();
        Case::new(MaxPool2dBackward { pool: MaxPool2d::of(window) }, "random", inputs, terms)
    }
}
