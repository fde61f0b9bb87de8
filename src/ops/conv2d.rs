//! 2-D convolution (cross-correlation, as the field says it): forward, and backward to input and weight. The bias is an op of its own.

use super::case::{Case, CaseInput, Fill};
use super::draw::{Draw, MAX_PRODUCTS};
use super::tolerance::sums_of_products;
use super::{Array, Forward, Op, Operator, expect_shape, inputs_f32};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::tensor::{Shape, TensorType};

/// `y[n,o,p,q] = sum over c,r,s of x[n, c, p*stride+r*dilation-padding, ...] * w[o,c,r,s]`.
/// Inputs: x [N, C, H, W], w [O, C/groups, R, S]. Output: y [N, O, P, Q].
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2d {
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Zeros added on each side: top and bottom, left and right.
    pub padding: [usize; 2],
    /// Distance between taps.
    pub dilation: [usize; 2],
    /// Output channel o sees only the input channels of its group.
    pub groups: usize,
}

/// Gradient of [`Conv2d`] to its input. Inputs: dy [N, O, P, Q], w [O, C/groups, R, S]. Output: dx [N, C, H, W].
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2dBackwardInput {
    /// The forward convolution.
    pub conv: Conv2d,
    /// H and W of the forward input.
    pub input: [usize; 2],
}

/// Gradient of [`Conv2d`] to its weight. Inputs: x [N, C, H, W], dy [N, O, P, Q]. Output: dw [O, C/groups, R, S].
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2dBackwardWeight {
    /// The forward convolution.
    pub conv: Conv2d,
    /// R and S.
    pub kernel: [usize; 2],
}

impl Conv2d {
    /// Output extent along one axis (0 vertical, 1 horizontal), or why there is none.
    pub fn output_extent(&self, axis: usize, input: usize, kernel: usize) -> Result<usize, String> {
        let (stride, padding, dilation) = (self.stride[axis], self.padding[axis], self.dilation[axis]);
        if stride == 0 || dilation == 0 || kernel == 0 {
            return Err(format!("kernel {kernel}, stride {stride} and dilation {dilation} must be at least 1"));
        }
        let reach = dilation * (kernel - 1) + 1;
        match (input + 2 * padding).checked_sub(reach) {
            Some(room) => Ok(room / stride + 1),
            None => Err(format!(
                "the kernel reaches over {reach} pixels, the input has {input} and {padding} of padding on each side; \
                 use larger pictures or a smaller kernel"
            )),
        }
    }

    fn output(&self, x: &Shape, w: &Shape) -> Result<[usize; 4], String> {
        let [n, c, h, wd] = x.nchw()?;
        let [o, cg, r, s] = w.nchw()?;
        let groups = self.groups;
        if groups == 0 || c % groups != 0 || o % groups != 0 || c / groups != cg {
            return Err(format!(
                "{c} input channels, {o} output channels and a weight {w} do not fit {groups} group(s): \
                 the weight must be [out, in / groups, height, width], both counts divisible by groups"
            ));
        }
        Ok([n, o, self.output_extent(0, h, r)?, self.output_extent(1, wd, s)?])
    }

    /// Calls `f(x index, w index, y index)` for each product of the convolution, y by y.
    fn each_product(&self, x: &Shape, w: &Shape, mut f: impl FnMut(usize, usize, usize)) {
        let [batch, outs, p_end, q_end] = self.output(x, w).expect("checked by infer");
        let (channels, height, width) = (x[1], x[2], x[3]);
        let (cg, kernel_h, kernel_w) = (w[1], w[2], w[3]);
        let mut y = 0;
        for n in 0..batch {
            for o in 0..outs {
                let first = o / (outs / self.groups) * cg;
                for p in 0..p_end {
                    for q in 0..q_end {
                        for c in 0..cg {
                            for r in 0..kernel_h {
                                for s in 0..kernel_w {
                                    // A tap in the padding wraps to a huge number and fails the test below.
                                    let i = (p * self.stride[0] + r * self.dilation[0]).wrapping_sub(self.padding[0]);
                                    let j = (q * self.stride[1] + s * self.dilation[1]).wrapping_sub(self.padding[1]);
                                    if i < height && j < width {
                                        let x = ((n * channels + first + c) * height + i) * width + j;
                                        let w = ((o * cg + c) * kernel_h + r) * kernel_w + s;
                                        f(x, w, y);
                                    }
                                }
                            }
                        }
                        y += 1;
                    }
                }
            }
        }
    }
}

impl Operator for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, w] = inputs_f32(inputs)?;
        Ok(vec![TensorType::f32(self.output(&x, &w)?)])
    }

    fn gradient(&self, graph: &mut Graph, node: &Forward) -> Result<Vec<Option<ValueId>>> {
        let (x, w) = (node.inputs[0], node.inputs[1]);
        let pair = |shape: &Shape| [shape[2], shape[3]];
        let dx = Conv2dBackwardInput { conv: self.clone(), input: pair(&graph[x].ty.shape) };
        let dw = Conv2dBackwardWeight { conv: self.clone(), kernel: pair(&graph[w].ty.shape) };
        Ok(vec![node.want(0, graph, dx, &[node.cotangent, w])?, node.want(1, graph, dw, &[x, node.cotangent])?])
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (x, w) = (&inputs[0], &inputs[1]);
        let mut y = Array::zeros(self.output(&x.shape, &w.shape).expect("checked by infer"));
        self.each_product(&x.shape, &w.shape, |xi, wi, yi| y.data[yi] += x.data[xi] * w.data[wi]);
        vec![y]
    }

    fn macs(&self, inputs: &[TensorType]) -> u64 {
        let (x, w) = (&inputs[0].shape, &inputs[1].shape);
        self.output(x, w).map_or(0, |y| y.iter().product::<usize>() * w[1..].iter().product::<usize>()) as u64
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        sums_of_products(self, &[0, 1], inputs, outputs)
    }

    fn cases() -> Vec<Case> {
        shapes().into_iter().map(|shape| shape.forward(Fill::Normal(1.0), Fill::Normal(1.0))).collect()
    }

    fn random(draw: &mut Draw) -> Case {
        ConvShape::random(draw).forward(draw.any(), draw.finite())
    }
}

impl Operator for Conv2dBackwardInput {
    fn name(&self) -> &'static str {
        "conv2d_backward_input"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [dy, w] = inputs_f32(inputs)?;
        let x = self.x_shape(&dy, &w)?;
        expect_shape("dy", &dy, &self.conv.output(&x, &w)?.into())?;
        Ok(vec![TensorType::f32(x)])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (dy, w) = (&inputs[0], &inputs[1]);
        let mut dx = Array::zeros(self.x_shape(&dy.shape, &w.shape).expect("checked by infer"));
        let shape = dx.shape.clone();
        self.conv.each_product(&shape, &w.shape, |xi, wi, yi| dx.data[xi] += dy.data[yi] * w.data[wi]);
        vec![dx]
    }

    fn macs(&self, inputs: &[TensorType]) -> u64 {
        let (dy, w) = (&inputs[0].shape, &inputs[1].shape);
        (dy.elements() * w[1..].iter().product::<usize>()) as u64
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        sums_of_products(self, &[0, 1], inputs, outputs)
    }

    fn cases() -> Vec<Case> {
        // No network has a picture's gradient computed, and the kernels for GPUs take half a minute for it on a processor.
        let shapes = shapes().into_iter().filter(|shape| !shape.name.starts_with("alexnet conv1"));
        shapes.map(|shape| shape.backward_input(Fill::Normal(1.0), Fill::Normal(1.0))).collect()
    }

    fn random(draw: &mut Draw) -> Case {
        ConvShape::random(draw).backward_input(draw.any(), draw.finite())
    }
}

impl Conv2dBackwardInput {
    fn x_shape(&self, dy: &Shape, w: &Shape) -> Result<Shape, String> {
        let (dy, w) = (dy.nchw()?, w.nchw()?);
        Ok([dy[0], w[1] * self.conv.groups, self.input[0], self.input[1]].into())
    }
}

impl Operator for Conv2dBackwardWeight {
    fn name(&self) -> &'static str {
        "conv2d_backward_weight"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, dy] = inputs_f32(inputs)?;
        let w = self.w_shape(&x, &dy)?;
        expect_shape("dy", &dy, &self.conv.output(&x, &w)?.into())?;
        Ok(vec![TensorType::f32(w)])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (x, dy) = (&inputs[0], &inputs[1]);
        let mut dw = Array::zeros(self.w_shape(&x.shape, &dy.shape).expect("checked by infer"));
        let shape = dw.shape.clone();
        self.conv.each_product(&x.shape, &shape, |xi, wi, yi| dw.data[wi] += dy.data[yi] * x.data[xi]);
        vec![dw]
    }

    fn macs(&self, inputs: &[TensorType]) -> u64 {
        let (x, dy) = (&inputs[0].shape, &inputs[1].shape);
        (dy.elements() * x[1] / self.conv.groups * self.kernel[0] * self.kernel[1]) as u64
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        sums_of_products(self, &[0, 1], inputs, outputs)
    }

    fn cases() -> Vec<Case> {
        shapes().into_iter().map(|shape| shape.backward_weight(Fill::Normal(1.0), Fill::Normal(1.0))).collect()
    }

    fn random(draw: &mut Draw) -> Case {
        ConvShape::random(draw).backward_weight(draw.any(), draw.finite())
    }
}

impl Conv2dBackwardWeight {
    fn w_shape(&self, x: &Shape, dy: &Shape) -> Result<Shape, String> {
        let (x, dy, groups) = (x.nchw()?, dy.nchw()?, self.conv.groups.max(1));
        Ok([dy[1], x[1] / groups, self.kernel[0], self.kernel[1]].into())
    }
}

/// A convolution with its shapes, from which forward and backward cases are made.
struct ConvShape {
    name: &'static str,
    conv: Conv2d,
    x: [usize; 4],
    out: usize,
    kernel: [usize; 2],
}

impl ConvShape {
    fn w(&self) -> [usize; 4] {
        [self.out, self.x[1] / self.conv.groups, self.kernel[0], self.kernel[1]]
    }

    fn y(&self) -> [usize; 4] {
        self.conv.output(&self.x.into(), &self.w().into()).expect("the case's shapes agree")
    }

    fn forward(self, x: Fill, w: Fill) -> Case {
        let (inputs, terms) = ([(self.x, x), (self.w(), w)], self.w()[1..].iter().product());
        self.case(self.conv.clone(), inputs, terms)
    }

    fn backward_input(self, dy: Fill, w: Fill) -> Case {
        let op = Conv2dBackwardInput { input: [self.x[2], self.x[3]], conv: self.conv.clone() };
        let terms = self.out / self.conv.groups * self.kernel[0] * self.kernel[1];
        self.case(op, [(self.y(), dy), (self.w(), w)], terms)
    }

    fn backward_weight(self, x: Fill, dy: Fill) -> Case {
        let op = Conv2dBackwardWeight { kernel: self.kernel, conv: self.conv.clone() };
        let y = self.y();
        self.case(op, [(self.x, x), (y, dy)], y[0] * y[2] * y[3])
    }

    fn case(&self, op: impl Into<Op>, inputs: [([usize; 4], Fill); 2], terms: usize) -> Case {
        let case = Case::new(op, self.name, inputs.map(|(shape, fill)| CaseInput::f32(shape, fill)).into(), terms);
        if self.name.ends_with("all channels") { case.without_gradient() } else { case } // it would be slow
    }

    /// Batch 1 to 9, up to 67 channels in 1 to 67 groups, planes and kernels of up to 40 and 11 a side, every option; halved here and there until there
    /// are not more than [`MAX_PRODUCTS`].
    fn random(draw: &mut Draw) -> ConvShape {
        let groups = match draw.below(8) {
            0..=3 => 1,
            4 => 2,
            5 => 3,
            6 => draw.between(4, 8),
            _ => draw.between(4, 67),
        };
        // Half of them have the kernels that networks are made of.
        let (kernel, stride, padding, dilation) = match draw.below(4) {
            0 => ([3; 2], [1; 2], draw.pair(0, 3), [1; 2]),
            1 => ([5; 2], [1; 2], draw.pair(0, 5), [1; 2]),
            2 => (draw.pair(1, 11), draw.pair(1, 4), draw.pair(0, 5), [1; 2]),
            _ => (draw.pair(1, 11), draw.pair(1, 4), draw.pair(0, 12), draw.pair(1, 5)),
        };
        let conv = Conv2d { stride, padding, dilation, groups };
        let (mut batch, mut size) = (draw.between(1, 9), draw.pair(1, 40));
        let (mut ins, mut outs) = (draw.between(1, 67 / groups), draw.between(1, 67 / groups));
        loop {
            for axis in 0..2 {
                let reach = dilation[axis] * (kernel[axis] - 1) + 1;
                size[axis] = size[axis].max(reach.saturating_sub(2 * padding[axis])).max(1);
            }
            let x = [batch, ins * groups, size[0], size[1]];
            let shape = ConvShape { name: "random", conv: conv.clone(), x, out: outs * groups, kernel };
            let (w, y) = (shape.w(), shape.y());
            let products = y.iter().product::<usize>() * w[1..].iter().product::<usize>();
            if products <= MAX_PRODUCTS {
                return shape;
            }
            match draw.below(4) {
                0 => batch = batch.div_ceil(2),
                1 => ins = ins.div_ceil(2),
                2 => outs = outs.div_ceil(2),
                _ => size = size.map(|extent| extent.div_ceil(2)),
            }
            if draw.below(8) == 0 {
                (batch, ins, outs) = (1, ins.div_ceil(2), outs.div_ceil(2)); // ends for any choices
            }
        }
    }
}

/// Odd sizes, every option alone and together, and AlexNet's five layers: with its pictures and fewer channels, and with all its
/// channels and, after the first, smaller pictures: the f64 reference has plain loops.
fn shapes() -> Vec<ConvShape> {
    let square = |name, stride, padding, dilation, groups, x, out, kernel| ConvShape {
        name,
        conv: Conv2d { stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2], groups },
        x,
        out,
        kernel: [kernel; 2],
    };
    vec![
        square("one of everything", 1, 0, 1, 1, [1, 1, 1, 1], 1, 1),
        square("1x1 kernel", 1, 0, 1, 1, [3, 5, 7, 9], 11, 1),
        square("3x3, odd sizes", 1, 1, 1, 1, [2, 7, 13, 11], 19, 3),
        square("stride leaves a rest", 3, 0, 1, 1, [3, 4, 12, 9], 5, 4),
        square("dilation", 1, 2, 3, 1, [2, 3, 15, 14], 6, 3),
        square("groups", 1, 1, 1, 3, [2, 6, 8, 7], 9, 3),
        square("depthwise", 2, 1, 1, 5, [2, 5, 9, 10], 5, 3),
        square("depthwise, two outputs each", 1, 2, 1, 37, [2, 37, 7, 9], 74, 5),
        square("8 groups", 1, 1, 1, 8, [2, 24, 9, 7], 40, 3),
        square("padding wider than the picture", 1, 4, 1, 1, [1, 2, 3, 2], 3, 5),
        square("all options", 2, 3, 2, 2, [3, 8, 17, 19], 6, 5),
        ConvShape {
            name: "not square",
            conv: Conv2d { stride: [2, 1], padding: [0, 3], dilation: [1, 2], groups: 1 },
            x: [2, 3, 11, 8],
            out: 4,
            kernel: [5, 3],
        },
        square("more rows and columns than one tile", 1, 1, 1, 1, [2, 35, 17, 23], 67, 3),
        square("a sum in parts, not square", 2, 0, 1, 1, [1, 1, 47, 49], 1, 1),
        square("more outputs and places than any tile", 1, 0, 1, 1, [1, 20, 10, 14], 130, 1),
        square("more inputs than any tile", 1, 0, 1, 1, [1, 131, 10, 13], 20, 1),
        square("more terms than an invocation sums", 1, 0, 1, 1, [1, 2, 317, 317], 3, 1),
        square("3x3, odd sizes, many channels", 1, 1, 1, 1, [3, 19, 11, 9], 13, 3),
        square("3x3, no padding, groups", 1, 0, 1, 2, [2, 34, 19, 22], 26, 3),
        square("3x3, more padding than a kernel needs", 1, 3, 1, 1, [1, 9, 4, 3], 12, 3),
        square("5x5, odd sizes, many channels", 1, 2, 1, 1, [2, 97, 9, 13], 98, 5),
        square("5x5, many pictures", 1, 0, 1, 1, [25, 8, 26, 25], 9, 5),
        square("1024 terms", 1, 0, 1, 1, [1, 64, 6, 6], 16, 4),
        // Channels that become whole eights, and are.
        square("three channels, sixteen outputs", 1, 1, 1, 1, [1, 3, 9, 7], 16, 3),
        square("five channels, eight outputs", 1, 0, 1, 1, [2, 5, 6, 7], 8, 3),
        square("eight channels, sixteen outputs", 1, 1, 1, 1, [1, 8, 7, 5], 16, 3),
        square("1x1, many channels", 1, 0, 1, 1, [2, 256, 7, 5], 64, 1),
        // What is copied into texels piece by piece, on Vulkan that is run by the processor.
        square("pictures in pieces", 1, 1, 1, 1, [3, 5, 300, 310], 3, 1),
        square("terms in pieces", 1, 0, 1, 1, [1, 2, 500, 490], 3, 1),
        square("weights in pieces", 1, 1, 1, 1, [1, 520, 3, 4], 470, 3),
        ConvShape {
            name: "a column of outputs",
            conv: Conv2d { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 },
            x: [3, 2, 9, 3],
            out: 5,
            kernel: [3, 3],
        },
        square("1x1, large planes", 1, 0, 1, 1, [4, 16, 100, 101], 16, 1),
        square("11x11, stride 4", 4, 2, 1, 1, [2, 3, 67, 67], 5, 11),
        square("alexnet conv1", 4, 2, 1, 1, [2, 3, 224, 224], 5, 11),
        square("alexnet conv2", 1, 2, 1, 1, [2, 12, 27, 27], 16, 5),
        square("alexnet conv2, two towers", 1, 2, 1, 2, [1, 24, 27, 27], 16, 5),
        square("alexnet conv3", 1, 1, 1, 1, [3, 64, 13, 13], 24, 3),
        square("alexnet conv4", 1, 1, 1, 1, [2, 384, 13, 13], 6, 3),
        square("alexnet conv5, two towers", 1, 1, 1, 2, [1, 384, 13, 13], 16, 3),
        square("alexnet conv1, all channels", 4, 2, 1, 1, [2, 3, 224, 224], 96, 11),
        square("alexnet conv2, all channels", 1, 2, 1, 1, [1, 96, 9, 9], 256, 5),
        square("alexnet conv3, all channels", 1, 1, 1, 1, [1, 256, 5, 5], 384, 3),
        square("alexnet conv4, all channels", 1, 1, 1, 1, [1, 384, 5, 5], 384, 3),
        square("alexnet conv5, all channels", 1, 1, 1, 1, [1, 384, 5, 5], 256, 3),
    ]
}
