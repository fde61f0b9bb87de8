//! For each op: how its outputs are cut, and what a device needs of the inputs to make its part of them. (Of products of weights:
//! `products`; of batch normalisation: `batch_norm`.)

use super::{Builder, Layout, Parallel};
use crate::error::Result;
use crate::graph::{Node, ValueId};
use crate::ops::{
    Augment, Biased, Concat, ConcatBackward, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Dropout, Linear,
    LinearBackwardInput, LinearBackwardWeight, Lrn, LrnBackward, Op, Product, Reshape, Strip,
};

impl Builder<'_> {
    /// Appends a node of the whole graph to the devices' graphs.
    pub(super) fn node(&mut self, node: &Node) -> Result<()> {
        let inputs = &node.inputs;
        match &node.op {
            Op::Conv2d(Conv2d { groups, .. }) => self.forward(node, *groups),
            Op::Linear(Linear) | Op::Biased(Biased { product: Product::Linear(_), .. }) => self.forward(node, 1),
            Op::Biased(Biased { product: Product::Conv2d(conv), .. }) => self.forward(node, conv.groups),
            Op::Conv2dBackwardInput(Conv2dBackwardInput { conv, .. }) => self.backward_input(node, conv.groups),
            Op::LinearBackwardInput(LinearBackwardInput) => self.backward_input(node, 1),
            Op::Conv2dBackwardWeight(Conv2dBackwardWeight { conv, .. }) => self.backward_weight(node, conv.groups),
            Op::LinearBackwardWeight(LinearBackwardWeight) => self.backward_weight(node, 1),
            Op::LinearUpdate(update) => self.linear_update(node, update),
            Op::Sgd(_) | Op::Adam(_) => {
                let layout = self.layout(inputs[0])?;
                self.update(node, node.op.clone(), inputs, &layout)
            }
            Op::MultiUpdate(_) => unreachable!("each step is a node of its own here"),
            Op::RunningAverage(_) => {
                let measured = self.layout(inputs[1])?;
                let layout = self.assign(inputs[0], measured)?;
                self.in_place(node, node.op.clone(), inputs, &layout)
            }
            Op::Bias(_) => {
                let target = self.target(&inputs[..1])?;
                let vector = of_channels(&target);
                self.assign(inputs[1], vector.clone())?;
                self.emit(node, vec![target.clone()], |b, d| {
                    Ok((node.op.clone(), vec![b.part(inputs[0], d, &target)?, b.part(inputs[1], d, &vector)?]))
                })
            }
            Op::BiasBackward(_) => {
                let layout = self.layout(inputs[0])?;
                let sums = match &layout {
                    Layout::Split { axis: 0, .. } => Layout::Sum,
                    other => of_channels(other),
                };
                self.emit(node, vec![sums], |b, d| Ok((node.op.clone(), vec![b.part(inputs[0], d, &layout)?])))
            }
            Op::BatchNorm(op) => self.batch_norm(node, op),
            Op::BatchNormBackward(op) => self.batch_norm_backward(node, op),
            Op::BatchNormInference(_) => self.per_channel(node, 1, |x| vec![x.clone()]),
            Op::Lrn(lrn) => self.lrn(node, lrn, lrn.size / 2, |lrn| lrn.into()),
            // A window's gradient has the windows in it that reach half a window further.
            Op::LrnBackward(LrnBackward { lrn }) => {
                self.lrn(node, lrn, lrn.size / 2 * 2, |lrn| LrnBackward { lrn }.into())
            }
            Op::Concat(concat) => self.concat(node, concat),
            Op::ConcatBackward(part) => self.concat_backward(node, part),
            Op::Dropout(dropout) => self.dropout(node, dropout),
            Op::Reshape(reshape) => self.reshape_rule(node, reshape),
            Op::Augment(augment) => self.augment(node, augment),
            Op::Mix(_) => self.mix(node),
            Op::Add(_) | Op::Scale(_) => {
                let mut layouts = Vec::new();
                for &input in inputs {
                    layouts.push(self.layout(input)?);
                }
                // The sum of summands' sums.
                let summands = layouts.iter().all(|layout| *layout == Layout::Sum);
                let target = if summands { Layout::Sum } else { self.target(inputs)? };
                self.alike(node, target)
            }
            Op::Activation(_)
            | Op::ActivationBackward(_)
            | Op::Mul(_)
            | Op::MaxPool2d(_)
            | Op::MaxPool2dBackward(_)
            | Op::AvgPool2d(_)
            | Op::AvgPool2dBackward(_) => {
                let target = self.target(inputs)?;
                self.alike(node, target)
            }
            Op::Softmax(_)
            | Op::SoftmaxBackward(_)
            | Op::CrossEntropy(_)
            | Op::CrossEntropyBackward(_)
            | Op::Fill(_)
            | Op::Reduce(_)
            | Op::Broadcast(_) => self.everywhere(node),
        }
    }

    /// Appends a node to each device's graph: the op and inputs that `make` gives, outputs in these layouts.
    pub(super) fn emit(
        &mut self,
        node: &Node,
        layouts: Vec<Layout>,
        mut make: impl FnMut(&mut Self, usize) -> Result<(Op, Vec<ValueId>)>,
    ) -> Result<()> {
        let mut locals = vec![Vec::new(); node.outputs.len()];
        for device in 0..self.devices() {
            let (op, inputs) = make(self, device)?;
            let outputs = self.parts[device].apply_all(&self.layer, op, &inputs)?;
            locals.iter_mut().zip(outputs).for_each(|(locals, output)| locals.push(output));
        }
        for ((&output, layout), locals) in node.outputs.iter().zip(layouts).zip(locals) {
            self.set(output, layout, locals);
        }
        Ok(())
    }

    /// All of the node on every device.
    pub(super) fn everywhere(&mut self, node: &Node) -> Result<()> {
        self.alike(node, Layout::Whole)
    }

    /// Inputs and outputs are cut alike.
    fn alike(&mut self, node: &Node, target: Layout) -> Result<()> {
        self.emit(node, vec![target.clone(); node.outputs.len()], |b, d| {
            let inputs = node.inputs.iter().map(|&input| b.part(input, d, &target));
            Ok((node.op.clone(), inputs.collect::<Result<_>>()?))
        })
    }

    /// How to cut an op whose inputs are cut alike: as the first that is cut.
    pub(super) fn target(&mut self, inputs: &[ValueId]) -> Result<Layout> {
        let mut sum = None;
        for &input in inputs {
            match self.layout(input)? {
                Layout::Whole => {}
                Layout::Sum => sum = Some(self.natural(input)),
                split => return Ok(split),
            }
        }
        Ok(sum.unwrap_or(Layout::Whole))
    }

    /// Whether a value is cut by rows: the layout then.
    pub(super) fn rows(&mut self, value: ValueId) -> Result<Option<Layout>> {
        Ok(Some(self.layout(value)?).filter(|layout| matches!(layout, Layout::Split { axis: 0, .. })))
    }

    /// All inputs as the first, which is overwritten.
    fn in_place(&mut self, node: &Node, op: Op, inputs: &[ValueId], layout: &Layout) -> Result<()> {
        self.emit(node, vec![layout.clone(); node.outputs.len()], |b, d| {
            let own = inputs.iter().map(|&input| b.part(input, d, layout));
            Ok((op.clone(), own.collect::<Result<_>>()?))
        })
    }

    /// Inputs: x, vectors of a number for each channel, and from `vectors` of them on tensors such as x. `outputs` says how the outputs are
    /// cut for a layout of x.
    pub(super) fn per_channel(
        &mut self,
        node: &Node,
        tensors: usize,
        outputs: impl Fn(&Layout) -> Vec<Layout>,
    ) -> Result<()> {
        let (first, last) = (node.inputs[0], node.inputs.len() - (tensors - 1));
        let target = self.target(&[first])?;
        let vector = of_channels(&target);
        for &input in &node.inputs[1..last] {
            self.assign(input, vector.clone())?;
        }
        self.emit(node, outputs(&target), |b, d| {
            let mut inputs = Vec::new();
            for (n, &input) in node.inputs.iter().enumerate() {
                let layout = if (1..last).contains(&n) { &vector } else { &target };
                inputs.push(b.part(input, d, layout)?);
            }
            Ok((node.op.clone(), inputs))
        })
    }

    /// A device whose channels' windows reach into another's makes those channels' too, of what it is sent.
    fn lrn(&mut self, node: &Node, lrn: &Lrn, reach: usize, op: impl Fn(Lrn) -> Op) -> Result<()> {
        let target = self.target(&node.inputs)?;
        let Layout::Split { axis: 1, bounds } = &target else { return self.alike(node, target) };
        let channels = self.ty(node.inputs[0]).shape[1];
        let each = channels / lrn.groups;
        let mut locals = Vec::new();
        for d in 0..self.devices() {
            let (start, end) = (bounds[d], bounds[d + 1]);
            let (seen, groups) = match lrn.groups {
                1 => (start.saturating_sub(reach)..(end + reach).min(channels), 1),
                _ => (start / each * each..end.next_multiple_of(each), end.div_ceil(each) - start / each),
            };
            let mut inputs = Vec::new();
            for &input in &node.inputs {
                inputs.push(self.piece(input, d, Some((1, seen.clone())))?);
            }
            let made = self.apply(d, op(Lrn { groups, ..lrn.clone() }), &inputs)?;
            locals.push(self.slice(d, made, &Some((1, start - seen.start..end - seen.start)))?);
        }
        self.set(node.outputs[0], target, locals);
        Ok(())
    }

    fn concat(&mut self, node: &Node, concat: &Concat) -> Result<()> {
        let target = self.target(&node.inputs)?;
        let channels: usize = concat.channels.iter().sum();
        let Layout::Split { axis: 1, .. } = target else { return self.alike(node, target) };
        let Some(target) = Layout::even(1, channels, self.devices()) else { return self.everywhere(node) };
        self.emit(node, vec![target.clone()], |b, d| {
            let Some((_, range)) = target.range(d) else { return Ok((node.op.clone(), Vec::new())) };
            let (mut first, mut inputs, mut widths) = (0, Vec::new(), Vec::new());
            for (&input, &width) in node.inputs.iter().zip(&concat.channels) {
                let (start, end) = (range.start.max(first), range.end.min(first + width));
                if start < end {
                    inputs.push(b.piece(input, d, Some((1, start - first..end - first)))?);
                    widths.push(end - start);
                }
                first += width;
            }
            Ok((Concat { channels: widths }.into(), inputs))
        })
    }

    fn concat_backward(&mut self, node: &Node, op: &ConcatBackward) -> Result<()> {
        let dy = node.inputs[0];
        let layout = self.layout(dy)?;
        let Layout::Split { axis: 1, .. } = layout else { return self.alike(node, layout) };
        let target = Layout::even(1, op.channels, self.devices()).unwrap_or(Layout::Whole);
        let mut locals = Vec::new();
        for d in 0..self.devices() {
            let own = target.range(d).map_or(0..op.channels, |(_, range)| range);
            locals.push(self.piece(dy, d, Some((1, op.first + own.start..op.first + own.end)))?);
        }
        self.set(node.outputs[0], target, locals);
        Ok(())
    }

    /// The numbers of each element's place in the whole.
    fn dropout(&mut self, node: &Node, dropout: &Dropout) -> Result<()> {
        let (x, counter) = (node.inputs[0], node.inputs[1]);
        if dropout.part != Strip::WHOLE {
            return self.everywhere(node); // a part of a part
        }
        let (target, ty) = (self.target(&[x])?, self.ty(x));
        let row: usize = ty.shape[1..].iter().product();
        self.emit(node, vec![target.clone()], |b, d| {
            let part = match target.range(d) {
                None => Strip::WHOLE,
                Some((0, range)) => Strip { first: range.start * row, width: 0, stride: 0 },
                Some((_, range)) => {
                    let inner = row / ty.shape[1];
                    Strip { first: range.start * inner, width: range.len() * inner, stride: row }
                }
            };
            let op = Dropout { part, ..dropout.clone() };
            Ok((op.into(), vec![b.part(x, d, &target)?, b.whole(counter, d)?]))
        })
    }

    /// A view: rows stay rows; channels stay in one piece where the new shape has a bound at each old one.
    fn reshape_rule(&mut self, node: &Node, Reshape { shape }: &Reshape) -> Result<()> {
        let (x, ty) = (node.inputs[0], self.ty(node.inputs[0]));
        let layout = self.layout(x)?;
        let same_rows = ty.shape.len() > 1 && shape.len() > 1 && ty.shape[0] == shape[0];
        let inner = |shape: &[usize]| shape[2..].iter().product::<usize>();
        let (from, to) = match (&layout, same_rows) {
            (Layout::Sum, _) => (Layout::Sum, Layout::Sum),
            (Layout::Split { axis: 0, .. }, true) => (layout.clone(), layout),
            (Layout::Split { axis: 1, bounds }, true) => {
                let scaled = |bounds: &[usize], by: usize, over: usize| -> Option<Layout> {
                    let whole = bounds.iter().all(|bound| (bound * by).is_multiple_of(over));
                    let bounds = bounds.iter().map(|bound| bound * by / over).collect();
                    whole.then_some(Layout::Split { axis: 1, bounds })
                };
                let (old, new) = (inner(&ty.shape), inner(shape));
                match scaled(bounds, old, new) {
                    Some(to) => (layout, to),
                    None => match Layout::even(1, shape[1], self.devices()) {
                        Some(Layout::Split { axis, bounds }) => match scaled(&bounds, new, old) {
                            Some(from) => (from, Layout::Split { axis, bounds }),
                            None => (Layout::Whole, Layout::Whole),
                        },
                        _ => (Layout::Whole, Layout::Whole),
                    },
                }
            }
            _ => (Layout::Whole, Layout::Whole),
        };
        let out = self.ty(node.outputs[0]);
        self.emit(node, vec![to.clone()], |b, d| {
            Ok((Reshape { shape: to.local(&out, d).shape }.into(), vec![b.part(x, d, &from)?]))
        })
    }

    /// Row n meets row N - 1 - n. With the rows that its own meet behind them, a device's rows meet these in the same way.
    fn mix(&mut self, node: &Node) -> Result<()> {
        let (x, plan) = (node.inputs[0], node.inputs[1]);
        let target = self.target(&[x])?;
        let Layout::Split { axis: 0, bounds } = &target else {
            return self.emit(node, vec![target.clone()], |b, d| {
                Ok((node.op.clone(), vec![b.part(x, d, &target)?, b.whole(plan, d)?]))
            });
        };
        let rows = self.ty(x).shape[0];
        let mut locals = Vec::new();
        for d in 0..self.devices() {
            let (own, met) = (bounds[d]..bounds[d + 1], rows - bounds[d + 1]..rows - bounds[d]);
            let mut inputs = Vec::new();
            for input in [x, plan] {
                let parts =
                    [self.piece(input, d, Some((0, own.clone())))?, self.piece(input, d, Some((0, met.clone())))?];
                inputs.push(self.join(d, 0, &parts)?);
            }
            let mixed = self.apply(d, node.op.clone(), &inputs)?;
            locals.push(self.slice(d, mixed, &Some((0, 0..own.len())))?);
        }
        self.set(node.outputs[0], target, locals);
        Ok(())
    }

    /// Each device sees its own rows' pictures where the batch is cut.
    fn augment(&mut self, node: &Node, augment: &Augment) -> Result<()> {
        let (pictures, counter) = (node.inputs[0], node.inputs[1]);
        let rows = match self.parallel {
            Parallel::Model => None,
            Parallel::Data => Layout::even(0, self.ty(pictures).shape[0], self.devices()),
        };
        let layout = self.assign(pictures, rows.unwrap_or(Layout::Whole))?;
        self.emit(node, vec![layout.clone()], |b, d| {
            let first_picture = augment.first_picture + layout.range(d).map_or(0, |(_, range)| range.start);
            let op = Augment { first_picture, ..augment.clone() };
            let mut inputs = vec![b.part(pictures, d, &layout)?, b.whole(counter, d)?];
            if let Some(&mean_image) = node.inputs.get(2) {
                inputs.push(b.whole(mean_image, d)?);
            }
            Ok((op.into(), inputs))
        })
    }
}

/// The layout of a vector of a number for each channel, for that of a tensor of channels.
pub(super) fn of_channels(layout: &Layout) -> Layout {
    match layout {
        Layout::Split { axis: 1, bounds } => Layout::Split { axis: 0, bounds: bounds.clone() },
        Layout::Sum => Layout::Sum,
        _ => Layout::Whole,
    }
}
