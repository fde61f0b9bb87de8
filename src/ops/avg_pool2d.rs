//! Average-pooling and its gradient.

use super::case::{Case, CaseInput};
use super::draw::Draw;
use super::tolerance::sums_of_products;
use super::window::{self, Window};
use super::{Array, Forward, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::{Shape, TensorType};

/// `y[n,c,p,q]` = the mean over the window. Input: `x [N, C, H, W]`. Output: `y [N, C, P, Q]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AvgPool2d {
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Zeros on each side; at most half the kernel.
    pub padding: [usize; 2],
    /// Rounds the output size up instead of down; a window that would start in the far padding is dropped (PyTorch's rule).
    pub ceil_mode: bool,
    /// Whether padding counts in the divisor (PyTorch's default: true; what reaches beyond the padding never counts).
    pub count_include_pad: bool,
}

/// Gradient of [`AvgPool2d`]: each dy is spread evenly over its window. Input: dy [N, C, P, Q]. Output: dx [N, C, H, W].
#[derive(Clone, Debug, PartialEq)]
pub struct AvgPool2dBackward {
    /// The forward op.
    pub pool: AvgPool2d,
    /// H and W of the forward input.
    pub input: [usize; 2],
}

impl AvgPool2d {
    /// The window's geometry.
    pub fn window(&self) -> Window {
        Window { kernel: self.kernel, stride: self.stride, padding: self.padding, ceil_mode: self.ceil_mode }
    }

    /// Positions that an output's mean is over, along one axis. With `count_include_pad` the window's part inside
    /// the padded picture, else its part inside the picture; the divisor is the product over both axes.
    pub fn divisor(&self, axis: usize, output: usize, extent: usize) -> usize {
        if !self.count_include_pad {
            return self.window().range(axis, output, extent).len();
        }
        let start = output * self.stride[axis];
        (start + self.kernel[axis]).min(extent + 2 * self.padding[axis]) - start
    }

    fn of(window: Window, count_include_pad: bool) -> Self {
        let Window { kernel, stride, padding, ceil_mode } = window;
        AvgPool2d { kernel, stride, padding, ceil_mode, count_include_pad }
    }

    /// With the shapes of x and y.
    fn random(draw: &mut Draw) -> (Self, [usize; 4], [usize; 4]) {
        let (window, x) = Window::random(draw);
        let y = window.output(&x.into()).expect("a random window fits");
        (Self::of(window, draw.below(2) == 0), x, y)
    }

    /// Calls `f(x index, y index, 1 / divisor)` for every pair of an input and an output whose window holds it.
    fn each_pair(&self, x: [usize; 4], mut f: impl FnMut(usize, usize, f64)) {
        let window = self.window();
        let [n, c, p, q] = window.output(&x.into()).expect("checked by infer");
        let [_, _, h, w] = x;
        for plane in 0..n * c {
            for (i, j) in (0..p).flat_map(|i| (0..q).map(move |j| (i, j))) {
                let share = 1.0 / (self.divisor(0, i, h) * self.divisor(1, j, w)) as f64;
                for row in window.range(0, i, h) {
                    for column in window.range(1, j, w) {
                        f((plane * h + row) * w + column, (plane * p + i) * q + j, share);
                    }
                }
            }
        }
    }
}

impl Operator for AvgPool2d {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs_f32(inputs)?;
        Ok(vec![TensorType::f32(self.window().output(&x)?)])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        let shape = graph[node.inputs[0]].ty.shape.clone();
        let backward = AvgPool2dBackward { pool: self.clone(), input: [shape[2], shape[3]] };
        Ok(vec![node.want(0, graph, backward, &[node.cotangent])?])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let x = &inputs[0];
        let mut y = Array::zeros(self.window().output(&x.shape).expect("checked by infer"));
        self.each_pair(x.shape.nchw().expect("checked by infer"), |xi, yi, share| y.data[yi] += x.data[xi] * share);
        vec![y]
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        sums_of_products(self, &[0], inputs, outputs)
    }

    fn cases() -> Vec<Case> {
        variants(|pool, name, x, _| {
            let terms = pool.kernel[0] * pool.kernel[1];
            Case::new(pool, name, vec![CaseInput::normal(x)], terms)
        })
    }

    fn random(draw: &mut Draw) -> Case {
        let (pool, x, _) = AvgPool2d::random(draw);
        let terms = pool.kernel[0] * pool.kernel[1];
        Case::new(pool, "random", vec![CaseInput::f32(x, draw.any())], terms)
    }
}

impl Operator for AvgPool2dBackward {
    fn name(&self) -> &'static str {
        "avg_pool2d_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [dy] = inputs_f32(inputs)?;
        let x = self.x_shape(&dy)?;
        expect_shape("dy", &dy, &self.pool.window().output(&x.into())?.into())?;
        Ok(vec![TensorType::f32(x)])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let dy = &inputs[0];
        let x = self.x_shape(&dy.shape).expect("checked by infer");
        let mut dx = Array::zeros(x);
        self.pool.each_pair(x, |xi, yi, share| dx.data[xi] += dy.data[yi] * share);
        vec![dx]
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        sums_of_products(self, &[0], inputs, outputs)
    }

    fn cases() -> Vec<Case> {
        variants(|pool, name, x, y| {
            let terms = pool.kernel[0] * pool.kernel[1];
            Case::new(AvgPool2dBackward { pool, input: [x[2], x[3]] }, name, vec![CaseInput::normal(y)], terms)
        })
    }

    fn random(draw: &mut Draw) -> Case {
        let (pool, x, y) = AvgPool2d::random(draw);
        let terms = pool.window().overlap();
        let op = AvgPool2dBackward { pool, input: [x[2], x[3]] };
        Case::new(op, "random", vec![CaseInput::f32(y, draw.any())], terms)
    }
}

impl AvgPool2dBackward {
    fn x_shape(&self, dy: &Shape) -> Result<[usize; 4], String> {
        let [n, c, _, _] = dy.nchw()?;
        Ok([n, c, self.input[0], self.input[1]])
    }
}

/// `case(pool, name, x, y)` for every window, with and without padding in the divisor.
fn variants(case: impl Fn(AvgPool2d, String, [usize; 4], [usize; 4]) -> Case) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, window, x) in window::cases() {
        for count_include_pad in [true, false] {
            let y = window.output(&x.into()).expect("the case's shapes agree");
            let pool = AvgPool2d::of(window, count_include_pad);
            let padding = if count_include_pad { "padding counts" } else { "padding does not count" };
            cases.push(case(pool, format!("{name}, {padding}"), x, y));
        }
    }
    cases
}
