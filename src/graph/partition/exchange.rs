//! What a device is given of a value: from its own memory, or sent by those that have it.

use super::{Builder, Layout, Section, Transfer};
use crate::error::Result;
use crate::graph::{Role, ValueId};
use crate::ops::{Add, Concat, ConcatBackward, Op, Reshape};
use crate::tensor::{Shape, TensorType};

impl Builder<'_> {
    /// All of a value, on a device.
    pub(super) fn whole(&mut self, value: ValueId, device: usize) -> Result<ValueId> {
        self.piece(value, device, None)
    }

    /// What a device has, or would have, of a value in this layout.
    pub(super) fn part(&mut self, value: ValueId, device: usize, layout: &Layout) -> Result<ValueId> {
        match layout {
            Layout::Sum => Ok(self.locals[value.0][device]),
            _ => self.piece(value, device, layout.range(device)),
        }
    }

    /// A range of a value along an axis, or all of it, on a device.
    pub(super) fn piece(&mut self, value: ValueId, device: usize, wanted: Option<Section>) -> Result<ValueId> {
        let ty = self.ty(value);
        let wanted = wanted.filter(|(axis, range)| *range != (0..ty.shape[*axis]));
        let key = (value, device, wanted.clone());
        if let Some(&known) = self.pieces.get(&key) {
            return Ok(known);
        }
        let made = match self.layout(value)? {
            Layout::Whole => self.slice(device, self.locals[value.0][device], &wanted)?,
            Layout::Sum => {
                let mut sum = None;
                for from in 0..self.devices() {
                    let part = self.slice(from, self.locals[value.0][from], &wanted)?;
                    let part = self.moved(value, (from, part), device)?;
                    sum = Some(match sum {
                        None => part,
                        Some(sum) => self.apply(device, Add, &[sum, part])?,
                    });
                }
                sum.unwrap_or(self.locals[value.0][device])
            }
            Layout::Split { axis, bounds } => {
                let range = match &wanted {
                    Some((along, range)) if *along == axis => range.clone(),
                    _ => 0..ty.shape[axis],
                };
                let mut pieces = Vec::new();
                for from in 0..self.devices() {
                    let (start, end) = (range.start.max(bounds[from]), range.end.min(bounds[from + 1]));
                    if start < end {
                        let own = Some((axis, start - bounds[from]..end - bounds[from]));
                        let piece = self.slice(from, self.locals[value.0][from], &own)?;
                        pieces.push(self.moved(value, (from, piece), device)?);
                    }
                }
                let joined = self.join(device, axis, &pieces)?;
                match wanted {
                    Some((along, _)) if along != axis => self.slice(device, joined, &wanted)?,
                    _ => joined,
                }
            }
        };
        self.pieces.insert(key, made);
        Ok(made)
    }

    /// Appends a node to a device's graph.
    pub(super) fn apply(&mut self, device: usize, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        self.parts[device].apply(&self.layer, op, inputs)
    }

    /// A range of a device's value.
    pub(super) fn slice(&mut self, device: usize, value: ValueId, wanted: &Option<Section>) -> Result<ValueId> {
        let ty = self.parts[device][value].ty.clone();
        let Some((axis, range)) = wanted.clone().filter(|(axis, range)| *range != (0..ty.shape[*axis])) else {
            return Ok(value);
        };
        let key = (device, value, axis, range.clone());
        if let Some(&known) = self.slices.get(&key) {
            return Ok(known);
        }
        let made = match axis {
            0 => {
                // In one piece: a strip of a single row.
                let inner: usize = ty.shape[1..].iter().product();
                let strip = ConcatBackward { first: range.start * inner, channels: range.len() * inner };
                let row = self.reshape(device, value, [1, ty.shape.elements()].into())?;
                let strip = self.apply(device, strip, &[row])?;
                let mut extents = ty.shape.to_vec();
                extents[0] = range.len();
                self.reshape(device, strip, extents.into())?
            }
            _ => self.apply(device, ConcatBackward { first: range.start, channels: range.len() }, &[value])?,
        };
        self.slices.insert(key, made);
        Ok(made)
    }

    /// A device's values, one after the other along an axis.
    pub(super) fn join(&mut self, device: usize, axis: usize, pieces: &[ValueId]) -> Result<ValueId> {
        if let [only] = pieces {
            return Ok(*only);
        }
        let types: Vec<TensorType> = pieces.iter().map(|&piece| self.parts[device][piece].ty.clone()).collect();
        if axis == 1 {
            return self.apply(device, Concat { channels: types.iter().map(|ty| ty.shape[1]).collect() }, pieces);
        }
        let sizes: Vec<usize> = types.iter().map(|ty| ty.shape.elements()).collect();
        let mut rows = Vec::new();
        for (&piece, &size) in pieces.iter().zip(&sizes) {
            rows.push(self.reshape(device, piece, [1, size].into())?);
        }
        let row = self.apply(device, Concat { channels: sizes }, &rows)?;
        let mut extents = types[0].shape.to_vec();
        extents[0] = types.iter().map(|ty| ty.shape[0]).sum();
        self.reshape(device, row, extents.into())
    }

    fn reshape(&mut self, device: usize, value: ValueId, shape: Shape) -> Result<ValueId> {
        match self.parts[device][value].ty.shape == shape {
            true => Ok(value),
            false => self.apply(device, Reshape { shape }, &[value]),
        }
    }

    /// A device's value on another: it is sent, once. `of` is the value of the whole graph that it is a part of.
    fn moved(&mut self, of: ValueId, from: (usize, ValueId), to: usize) -> Result<ValueId> {
        if from.0 == to {
            return Ok(from.1);
        }
        if let Some(&known) = self.moved.get(&(from.0, from.1, to)) {
            return Ok(known);
        }
        let (ty, value) = (self.parts[from.0][from.1].ty.clone(), self.whole[of].name.clone());
        let (bytes, number) = (ty.bytes() as u64, self.transfers.len());
        let name = format!("{value} of device {}, transfer {number}", from.0);
        let received = self.parts[to].source(&name, ty, Role::Received)?;
        self.transfers.push(Transfer { layer: self.layer.clone(), value, from, to: (to, received), bytes });
        self.moved.insert((from.0, from.1, to), received);
        Ok(received)
    }
}
