//! The rules of what multiplies by a weight, and of what updates one. A layer's outputs are cut by its kernels, in whole groups, so that
//! a device needs the input channels of its own groups alone; the gradient of inputs that all kernels see is a sum over the devices.

use std::ops::Range;

use super::{Builder, Layout, Parallel};
use crate::error::Result;
use crate::graph::{Node, ValueId};
use crate::ops::{
    Biased, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, LinearBackwardWeight, LinearUpdate, Op, Product,
};

/// A layer's outputs cut over the devices.
struct Cut {
    bounds: Vec<usize>,
    outputs: usize,
    groups: usize,
}

impl Cut {
    fn along(&self, axis: usize) -> Layout {
        Layout::Split { axis, bounds: self.bounds.clone() }
    }

    /// The groups that a device computes.
    fn groups(&self, device: usize) -> Range<usize> {
        match self.groups {
            1 => 0..1,
            groups => self.bounds[device] * groups / self.outputs..self.bounds[device + 1] * groups / self.outputs,
        }
    }

    /// Which of the layer's input channels a device needs.
    fn inputs(&self, device: usize, channels: usize) -> Range<usize> {
        let (each, groups) = (channels / self.groups, self.groups(device));
        groups.start * each..groups.end * each
    }

    /// The op with a device's groups.
    fn op(&self, op: &Op, device: usize) -> Op {
        let groups = self.groups(device).len();
        let own = |conv: &Conv2d| Conv2d { groups, ..conv.clone() };
        match op {
            Op::Conv2d(conv) => own(conv).into(),
            Op::Biased(Biased { product: Product::Conv2d(conv), relu }) => {
                Biased { product: Product::Conv2d(own(conv)), relu: *relu }.into()
            }
            Op::Conv2dBackwardInput(op) => Conv2dBackwardInput { conv: own(&op.conv), ..op.clone() }.into(),
            Op::Conv2dBackwardWeight(op) => Conv2dBackwardWeight { conv: own(&op.conv), ..op.clone() }.into(),
            other => other.clone(),
        }
    }
}

impl Builder<'_> {
    /// Which of a layer's outputs each device computes: whole groups, if there is more than one; `None` where all compute all.
    fn outputs(&self, outputs: usize, groups: usize) -> Option<Cut> {
        let units = if groups == 1 { outputs } else { groups };
        match Layout::even(0, units, self.devices())? {
            Layout::Split { bounds, .. } if self.parallel == Parallel::Model => {
                let bounds: Vec<usize> = bounds.into_iter().map(|bound| bound * (outputs / units)).collect();
                Some(Cut { bounds, outputs, groups })
            }
            _ => None,
        }
    }

    /// Inputs: x, weight, and the bias if there is one.
    pub(super) fn forward(&mut self, node: &Node, groups: usize) -> Result<()> {
        let &[x, ref parameters @ ..] = &node.inputs[..] else { return self.everywhere(node) };
        if let Some(rows) = self.rows(x)? {
            return self.emit(node, vec![rows.clone()], |b, d| {
                let mut inputs = vec![b.part(x, d, &rows)?];
                for &parameter in parameters {
                    inputs.push(b.whole(parameter, d)?);
                }
                Ok((node.op.clone(), inputs))
            });
        }
        let Some(&weight) = parameters.first() else { return self.everywhere(node) };
        let (ty, channels) = (self.ty(weight), self.ty(x).shape[1]);
        let Some(cut) = self.outputs(ty.shape[0], groups) else { return self.everywhere(node) };
        let kernels = cut.along(0);
        for &parameter in parameters {
            self.assign(parameter, kernels.clone())?;
        }
        self.emit(node, vec![cut.along(1)], |b, d| {
            let mut inputs = vec![b.piece(x, d, Some((1, cut.inputs(d, channels))))?];
            for &parameter in parameters {
                inputs.push(b.part(parameter, d, &kernels)?);
            }
            Ok((cut.op(&node.op, d), inputs))
        })
    }

    /// Inputs: dy, weight.
    pub(super) fn backward_input(&mut self, node: &Node, groups: usize) -> Result<()> {
        let &[dy, weight] = &node.inputs[..] else { return self.everywhere(node) };
        if let Some(rows) = self.rows(dy)? {
            return self.emit(node, vec![rows.clone()], |b, d| {
                Ok((node.op.clone(), vec![b.part(dy, d, &rows)?, b.whole(weight, d)?]))
            });
        }
        let channels = self.ty(node.outputs[0]).shape[1];
        let Some(cut) = self.outputs(self.ty(weight).shape[0], groups) else { return self.everywhere(node) };
        let layout = match groups {
            1 => Layout::Sum,
            _ => {
                let bounds = cut.bounds.iter().map(|bound| bound * channels / cut.outputs).collect();
                Layout::Split { axis: 1, bounds }
            }
        };
        self.emit(node, vec![layout], |b, d| {
            let inputs = vec![b.part(dy, d, &cut.along(1))?, b.part(weight, d, &cut.along(0))?];
            Ok((cut.op(&node.op, d), inputs))
        })
    }

    /// Inputs: x, dy.
    pub(super) fn backward_weight(&mut self, node: &Node, groups: usize) -> Result<()> {
        let &[x, dy] = &node.inputs[..] else { return self.everywhere(node) };
        if let Some(rows) = self.rows(x)? {
            return self.emit(node, vec![Layout::Sum], |b, d| {
                Ok((node.op.clone(), vec![b.part(x, d, &rows)?, b.part(dy, d, &rows)?]))
            });
        }
        let (channels, outputs) = (self.ty(x).shape[1], self.ty(dy).shape[1]);
        let Some(cut) = self.outputs(outputs, groups) else { return self.everywhere(node) };
        self.emit(node, vec![cut.along(0)], |b, d| {
            let x = b.piece(x, d, Some((1, cut.inputs(d, channels))))?;
            Ok((cut.op(&node.op, d), vec![x, b.part(dy, d, &cut.along(1))?]))
        })
    }

    /// Inputs: x, dy, and the optimizer's but for the gradient. Of rows the gradient is a sum over the devices, and so a value of its
    /// own again.
    pub(super) fn linear_update(&mut self, node: &Node, update: &LinearUpdate) -> Result<()> {
        let (x, dy, weight) = (node.inputs[0], node.inputs[1], node.inputs[2]);
        let layout = self.layout(weight)?;
        if let Some(rows) = self.rows(x)? {
            let mut locals = Vec::new();
            for d in 0..self.devices() {
                let inputs = [self.part(x, d, &rows)?, self.part(dy, d, &rows)?];
                locals.push(self.apply(d, LinearBackwardWeight, &inputs)?);
            }
            let name = format!("{}.gradient", self.whole[weight].name);
            let gradient = self.beside(&name, self.ty(weight), Layout::Sum, locals);
            let inputs = LinearUpdate::of_rule(&node.inputs, gradient);
            return self.update(node, update.rule.clone().into(), &inputs, &layout);
        }
        let features = match &layout {
            Layout::Split { bounds, .. } => Layout::Split { axis: 1, bounds: bounds.clone() },
            other => other.clone(),
        };
        let (last, resident) = (node.inputs.len() - 1, node.inputs.clone());
        for &state in &resident[3..last] {
            self.assign(state, layout.clone())?;
        }
        self.emit(node, vec![layout.clone(); node.outputs.len()], |b, d| {
            let mut inputs = vec![b.whole(x, d)?, b.part(dy, d, &features)?];
            for &value in &resident[2..last] {
                inputs.push(b.part(value, d, &layout)?);
            }
            inputs.push(b.whole(resident[last], d)?);
            Ok((node.op.clone(), inputs))
        })
    }

    /// An optimizer's step on a parameter in this layout. Inputs: parameter, gradient, states, schedule.
    pub(super) fn update(&mut self, node: &Node, op: Op, inputs: &[ValueId], layout: &Layout) -> Result<()> {
        let (schedule, tensors) = inputs.split_last().map_or((None, inputs), |(last, rest)| (Some(*last), rest));
        for &state in tensors.iter().skip(2) {
            self.assign(state, layout.clone())?;
        }
        self.emit(node, vec![layout.clone(); node.outputs.len()], |b, d| {
            let mut own = Vec::new();
            for &tensor in tensors {
                own.push(b.part(tensor, d, layout)?);
            }
            if let Some(schedule) = schedule {
                own.push(b.whole(schedule, d)?);
            }
            Ok((op.clone(), own))
        })
    }
}
