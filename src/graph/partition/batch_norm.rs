//! Batch normalisation of a batch that is cut by rows: by the whole batch's mean and variance, as on one device.
//!
//! Made of the ops there are. With n of device d's elements in a channel's N: mean = sum n/N mean_d, and
//! variance = sum n/N (variance_d + (mean_d - mean)^2). The device's own backward pass, given these, is right but for the means of
//! dy and dy * (x - mean) in dx, which are its own rows': what the whole batch's differ by is a multiple of x, normalised again.

use super::rules::of_channels;
use super::{Builder, Layout};
use crate::error::Result;
use crate::graph::{Node, ValueId};
use crate::ops::{Add, BatchNorm, BatchNormBackward, BatchNormInference, Fill, Mul, Scale};
use crate::tensor::TensorType;

impl Builder<'_> {
    /// Inputs: x, weight, bias. Outputs: y, mean, variance.
    pub(super) fn batch_norm(&mut self, node: &Node, op: &BatchNorm) -> Result<()> {
        let target = self.target(&node.inputs[..1])?;
        let Layout::Split { axis: 0, .. } = target else {
            return self.per_channel(node, 1, |x| vec![x.clone(), of_channels(x), of_channels(x)]);
        };
        let (x, weight, bias) = (node.inputs[0], node.inputs[1], node.inputs[2]);
        let vector = self.ty(node.outputs[1]);
        let (mut own, mut shares) = (Vec::new(), Vec::new());
        for d in 0..self.devices() {
            let inputs = [self.part(x, d, &target)?, self.whole(weight, d)?, self.whole(bias, d)?];
            own.push(self.parts[d].apply_all(&self.layer, op.clone(), &inputs)?);
            shares.push(self.share(x, &target, d));
        }
        let means = (0..self.devices()).map(|d| self.scaled(d, own[d][1], shares[d])).collect::<Result<Vec<_>>>()?;
        let mean = self.beside(&format!("{}.mean", self.layer), vector.clone(), Layout::Sum, means);
        let (mut means, mut variances) = (Vec::new(), Vec::new());
        for d in 0..self.devices() {
            let of_all = self.whole(mean, d)?;
            let off = self.less(d, own[d][1], of_all)?;
            let square = self.apply(d, Mul, &[off, off])?;
            let variance = self.apply(d, Add, &[own[d][2], square])?;
            variances.push(self.scaled(d, variance, shares[d])?);
            means.push(of_all);
        }
        let variance = self.beside(&format!("{}.variance", self.layer), vector, Layout::Sum, variances);
        let (mut ys, mut variances) = (Vec::new(), Vec::new());
        for (d, &mean) in means.iter().enumerate() {
            let variance = self.whole(variance, d)?;
            let inputs = [self.part(x, d, &target)?, self.whole(weight, d)?, self.whole(bias, d)?, mean, variance];
            ys.push(self.apply(d, BatchNormInference { epsilon: op.epsilon }, &inputs)?);
            variances.push(variance);
        }
        self.set(node.outputs[0], target, ys);
        self.set(node.outputs[1], Layout::Whole, means);
        self.set(node.outputs[2], Layout::Whole, variances);
        Ok(())
    }

    /// Inputs: x, weight, mean, variance, dy. Outputs: dx, dweight, dbias.
    pub(super) fn batch_norm_backward(&mut self, node: &Node, op: &BatchNormBackward) -> Result<()> {
        let target = self.target(&node.inputs[..1])?;
        let Layout::Split { axis: 0, .. } = target else {
            return self.per_channel(node, 2, |x| vec![x.clone(), of_channels(x), of_channels(x)]);
        };
        let &[x, weight, mean, variance, dy] = &node.inputs[..] else { return Ok(()) };
        let mut own = Vec::new();
        for d in 0..self.devices() {
            let vectors = [self.whole(weight, d)?, self.whole(mean, d)?, self.whole(variance, d)?];
            let inputs = [&[self.part(x, d, &target)?], &vectors[..], &[self.part(dy, d, &target)?]].concat();
            own.push(self.parts[d].apply_all(&self.layer, op.clone(), &inputs)?);
        }
        for output in [1, 2] {
            let locals = own.iter().map(|outputs| outputs[output]).collect();
            self.set(node.outputs[output], Layout::Sum, locals);
        }
        let all = self.ty(x).shape.elements() / self.ty(x).shape[1];
        let inference = BatchNormInference { epsilon: op.epsilon };
        let mut dxs = Vec::new();
        for (d, own) in own.iter().enumerate() {
            let vectors = [self.whole(weight, d)?, self.whole(mean, d)?, self.whole(variance, d)?];
            // weight / sqrt(variance + epsilon): what 1 becomes, with a mean and a bias of 0.
            let channels = self.parts[d][vectors[0]].ty.shape[0];
            let one = self.apply(d, Fill { shape: [1, channels].into(), value: 1.0 }, &[])?;
            let zero = self.apply(d, Fill { shape: [channels].into(), value: 0.0 }, &[])?;
            let slope = self.apply(d, inference.clone(), &[one, vectors[0], zero, zero, vectors[2]])?;
            let slope = self.apply(d, crate::ops::Reshape { shape: [channels].into() }, &[slope])?;
            let rows = target.local(&self.ty(x), d).shape[0] * all / self.ty(x).shape[0];
            let mut by = |output: usize| -> Result<ValueId> {
                let of_all = self.whole(node.outputs[output], d)?;
                let of_all = self.scaled(d, of_all, 1.0 / all as f64)?;
                let of_own = self.scaled(d, own[output], 1.0 / rows as f64)?;
                let off = self.less(d, of_own, of_all)?;
                self.apply(d, Mul, &[slope, off])
            };
            let (weight, bias) = (by(1)?, by(2)?);
            let x = self.part(x, d, &target)?;
            let off = self.apply(d, inference.clone(), &[x, weight, bias, vectors[1], vectors[2]])?;
            dxs.push(self.apply(d, Add, &[own[0], off])?);
        }
        self.set(node.outputs[0], target, dxs);
        Ok(())
    }

    /// A device's part of a value's rows.
    fn share(&self, value: ValueId, layout: &Layout, device: usize) -> f64 {
        let ty: TensorType = self.ty(value);
        layout.local(&ty, device).shape[0] as f64 / ty.shape[0] as f64
    }

    fn scaled(&mut self, device: usize, value: ValueId, factor: f64) -> Result<ValueId> {
        self.apply(device, Scale { factor: factor as f32 }, &[value])
    }

    /// a - b.
    fn less(&mut self, device: usize, a: ValueId, b: ValueId) -> Result<ValueId> {
        let minus = self.scaled(device, b, -1.0)?;
        self.apply(device, Add, &[a, minus])
    }
}
