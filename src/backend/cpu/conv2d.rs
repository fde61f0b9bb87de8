//! 2-D convolution as matrix products over the columns of a picture (im2col), forward and backward to input and weight.
//!
//! A column holds what the kernel sees at one output position: `columns[(c, r, s)][(p, q)] = x[c, p * stride + r * dilation, ...]`.
//! They are made for one picture and a few output rows at a time, in scratch memory that stays in the cache, from a padded
//! copy of the picture whose rows are sorted by `column % stride`: then every stretch of a row is one contiguous copy.

use std::ops::Range;

use rayon::prelude::*;

use super::CpuOp;
use super::matmul::{Matrix, matmul};
use super::memory::Io;
use super::parallel::{Pieces, add_chunk};
use crate::ops::{Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight};
use crate::tensor::TensorType;

/// Elements of columns made at a time, about: 1 MiB.
const COLUMNS: usize = 1 << 18;

/// Pieces that the weight gradient's taps are cut into: fixed, so that the sums do not depend on the number of threads.
const SLABS: usize = 16;

impl CpuOp for Conv2d {
    fn scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        let g = Geometry::new(self, &inputs[0].shape, &inputs[1].shape, &outputs[0].shape);
        threads * (g.planes() + g.taps() * g.block_rows() * g.q)
    }

    fn run(&self, mut io: Io) {
        let (x, w, y) = (io.f32(0), io.f32(1), io.output(0));
        let g = Geometry::new(self, io.shape(0), io.shape(1), io.output_shape(0));
        let scratch = Pieces::new(io.scratch(), g.planes() + g.taps() * g.block_rows() * g.q, io.threads());
        let picture = |y: &mut [f32], x: &[f32], threads: usize| {
            scratch.with(|scratch| {
                let (planes, columns) = scratch.split_at_mut(g.planes());
                for group in 0..g.groups {
                    let y = &mut y[group * g.o * g.p * g.q..][..g.o * g.p * g.q];
                    let w = Matrix::rows(&w[group * g.o * g.taps()..], [g.o, g.taps()], g.taps());
                    g.spread(planes, &x[group * g.c * g.h * g.w..], 0..g.c);
                    for rows in g.blocks() {
                        let width = rows.len() * g.q;
                        g.columns(columns, planes, 0..g.c * g.r, rows.clone());
                        let columns = Matrix::rows(columns, [g.taps(), width], width);
                        matmul(&mut y[rows.start * g.q..], g.p * g.q, w, columns, false, threads);
                    }
                }
            })
        };
        let (inputs, outputs) = (g.groups * g.c * g.h * g.w, g.groups * g.o * g.p * g.q);
        if g.n >= io.threads() {
            y.par_chunks_mut(outputs).zip(x.par_chunks(inputs)).for_each(|(y, x)| picture(y, x, 1));
        } else {
            y.chunks_mut(outputs).zip(x.chunks(inputs)).for_each(|(y, x)| picture(y, x, io.threads()));
        }
    }
}

impl CpuOp for Conv2dBackwardInput {
    fn scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        let g = Geometry::new(&self.conv, &outputs[0].shape, &inputs[1].shape, &inputs[0].shape);
        threads * (g.planes() + g.taps() * g.block_rows() * g.q)
    }

    fn run(&self, mut io: Io) {
        let (dy, w, dx) = (io.f32(0), io.f32(1), io.output(0));
        let g = Geometry::new(&self.conv, io.output_shape(0), io.shape(1), io.shape(0));
        let scratch = Pieces::new(io.scratch(), g.planes() + g.taps() * g.block_rows() * g.q, io.threads());
        let picture = |dx: &mut [f32], dy: &[f32], threads: usize| {
            scratch.with(|scratch| {
                let (planes, columns) = scratch.split_at_mut(g.planes());
                for group in 0..g.groups {
                    let dy = &dy[group * g.o * g.p * g.q..][..g.o * g.p * g.q];
                    let w = Matrix::rows(&w[group * g.o * g.taps()..], [g.o, g.taps()], g.taps());
                    planes.fill(0.0);
                    for rows in g.blocks() {
                        let width = rows.len() * g.q;
                        let dy = Matrix::rows(&dy[rows.start * g.q..], [g.o, width], g.p * g.q);
                        matmul(columns, width, w.t(), dy, false, threads);
                        g.add_columns(planes, columns, rows);
                    }
                    g.collect(&mut dx[group * g.c * g.h * g.w..], planes);
                }
            })
        };
        let (inputs, outputs) = (g.groups * g.c * g.h * g.w, g.groups * g.o * g.p * g.q);
        if g.n >= io.threads() {
            dx.par_chunks_mut(inputs).zip(dy.par_chunks(outputs)).for_each(|(dx, dy)| picture(dx, dy, 1));
        } else {
            dx.chunks_mut(inputs).zip(dy.chunks(outputs)).for_each(|(dx, dy)| picture(dx, dy, io.threads()));
        }
    }
}

impl CpuOp for Conv2dBackwardWeight {
    fn scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        let g = Geometry::new(&self.conv, &inputs[0].shape, &outputs[0].shape, &inputs[1].shape);
        outputs[0].shape.elements() + threads * (g.planes() + g.slab() * g.s * g.block_rows() * g.q)
    }

    /// Each task computes a slab of the taps (c, r) for all pictures in order.
    fn run(&self, mut io: Io) {
        let (x, dy, dw, scratch) = (io.f32(0), io.f32(1), io.output(0), io.scratch());
        let g = Geometry::new(&self.conv, io.shape(0), io.output_shape(0), io.shape(1));
        let (slabs, scratch) = scratch.split_at_mut(dw.len());
        let scratch = Pieces::new(scratch, g.planes() + g.slab() * g.s * g.block_rows() * g.q, io.threads());
        for group in 0..g.groups {
            let slabs = &mut slabs[group * g.o * g.taps()..][..g.o * g.taps()];
            slabs.par_chunks_mut(g.o * g.slab() * g.s).enumerate().for_each(|(i, slab)| {
                let units = i * g.slab()..((i + 1) * g.slab()).min(g.c * g.r);
                let taps = units.len() * g.s;
                scratch.with(|scratch| {
                    let (planes, columns) = scratch.split_at_mut(g.planes());
                    for n in 0..g.n {
                        let picture = n * g.groups + group;
                        let (x, dy) = (&x[picture * g.c * g.h * g.w..], &dy[picture * g.o * g.p * g.q..]);
                        g.spread(planes, x, units.start / g.r..units.end.div_ceil(g.r));
                        for rows in g.blocks() {
                            let width = rows.len() * g.q;
                            g.columns(columns, planes, units.clone(), rows.clone());
                            let columns = Matrix::rows(columns, [taps, width], width);
                            let dy = Matrix::rows(&dy[rows.start * g.q..], [g.o, width], g.p * g.q);
                            matmul(slab, taps, dy, columns.t(), n > 0 || rows.start > 0, 1);
                        }
                    }
                })
            });
            let dw = &mut dw[group * g.o * g.taps()..][..g.o * g.taps()];
            dw.par_chunks_mut(g.taps()).enumerate().for_each(|(o, dw)| {
                for (dw, slab) in dw.chunks_mut(g.slab() * g.s).zip(slabs.chunks(g.o * g.slab() * g.s)) {
                    dw.copy_from_slice(&slab[o * dw.len()..][..dw.len()]);
                }
            });
        }
    }
}

/// Extents of a convolution; c and o count the channels of one group.
struct Geometry {
    n: usize,
    groups: usize,
    c: usize,
    h: usize,
    w: usize,
    o: usize,
    r: usize,
    s: usize,
    p: usize,
    q: usize,
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
}

impl Geometry {
    /// From the shapes of x, w and y.
    fn new(conv: &Conv2d, x: &[usize], w: &[usize], y: &[usize]) -> Self {
        Geometry {
            n: x[0],
            groups: conv.groups,
            c: w[1],
            h: x[2],
            w: x[3],
            o: w[0] / conv.groups,
            r: w[2],
            s: w[3],
            p: y[2],
            q: y[3],
            stride: conv.stride,
            padding: conv.padding,
            dilation: conv.dilation,
        }
    }

    /// Rows of the weight matrix: taps (c, r, s) of one group.
    fn taps(&self) -> usize {
        self.c * self.r * self.s
    }

    /// Output rows whose columns are made at a time.
    fn block_rows(&self) -> usize {
        (COLUMNS / (self.taps() * self.q)).clamp(1, self.p)
    }

    /// The output rows, block by block.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let (rows, p) = (self.block_rows(), self.p);
        (0..p).step_by(rows).map(move |first| first..(first + rows).min(p))
    }

    /// Pairs (c, r) of one slab of the weight gradient.
    fn slab(&self) -> usize {
        (self.c * self.r).div_ceil(SLABS)
    }

    /// Rows of a padded plane that the kernel reaches.
    fn padded_height(&self) -> usize {
        (self.p - 1) * self.stride[0] + (self.r - 1) * self.dilation[0] + 1
    }

    /// Columns of a padded plane of each remainder by the stride.
    fn phase_width(&self) -> usize {
        ((self.q - 1) * self.stride[1] + (self.s - 1) * self.dilation[1] + 1).div_ceil(self.stride[1])
    }

    /// Elements of a padded row: phases [column % stride][column / stride].
    fn padded_row(&self) -> usize {
        self.stride[1] * self.phase_width()
    }

    /// Elements of all padded planes of a group.
    fn planes(&self) -> usize {
        self.c * self.padded_height() * self.padded_row()
    }

    /// Where output row p sees the tap (unit = (c, r), s) in the padded planes: `q` elements from there.
    fn place(&self, unit: usize, s: usize, p: usize) -> usize {
        let (c, r) = (unit / self.r, unit % self.r);
        let row = c * self.padded_height() + p * self.stride[0] + r * self.dilation[0];
        let column = s * self.dilation[1];
        row * self.padded_row() + column % self.stride[1] * self.phase_width() + column / self.stride[1]
    }

    /// For each padded row of channel c that holds a row of the picture: (start of the padded row, start of the row).
    fn rows(&self, c: usize) -> impl Iterator<Item = (usize, usize)> {
        let (height, row, h, w, top) = (self.padded_height(), self.padded_row(), self.h, self.w, self.padding[0]);
        (top..height.min(top + h)).map(move |i| ((c * height + i) * row, (c * h + i - top) * w))
    }

    /// For each phase: (start in the padded row, first column of the picture, number of columns), columns a stride apart.
    fn phases(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let (stride, left, w, width) = (self.stride[1], self.padding[1], self.w, self.phase_width());
        (0..stride).map(move |phase| {
            // Padded column k * stride + phase is the picture's column less `left`.
            let first = left.saturating_sub(phase).div_ceil(stride);
            let end = (w + left).saturating_sub(phase).div_ceil(stride).min(width);
            (phase * width + first, (first * stride + phase).wrapping_sub(left), end.saturating_sub(first))
        })
    }

    /// Copies channels of a picture into padded planes.
    fn spread(&self, planes: &mut [f32], x: &[f32], channels: Range<usize>) {
        let plane = self.padded_height() * self.padded_row();
        planes[channels.start * plane..channels.end * plane].fill(0.0);
        for (to, from) in channels.flat_map(|c| self.rows(c)) {
            for (start, first, count) in self.phases() {
                let to = &mut planes[to + start..][..count];
                if self.stride[1] == 1 {
                    to.copy_from_slice(&x[from + first..][..count]);
                } else {
                    let from = x[from..from + self.w].iter().skip(first).step_by(self.stride[1]);
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }

    /// The inverse: copies padded planes into a picture. What the kernel never reaches is 0.
    fn collect(&self, x: &mut [f32], planes: &[f32]) {
        x[..self.c * self.h * self.w].fill(0.0);
        for (from, to) in (0..self.c).flat_map(|c| self.rows(c)) {
            for (start, first, count) in self.phases() {
                let from = &planes[from + start..][..count];
                let to = x[to..to + self.w].iter_mut().skip(first).step_by(self.stride[1]);
                to.zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    }

    /// Columns of the taps (unit, s) at the output rows.
    fn columns(&self, columns: &mut [f32], planes: &[f32], units: Range<usize>, rows: Range<usize>) {
        let mut columns = columns.chunks_exact_mut(self.q);
        for unit in units {
            for s in 0..self.s {
                for (p, to) in rows.clone().zip(&mut columns) {
                    to.copy_from_slice(&planes[self.place(unit, s, p)..][..self.q]);
                }
            }
        }
    }

    /// The transpose of [`Geometry::columns`] over all taps: adds each column to where it came from.
    fn add_columns(&self, planes: &mut [f32], columns: &[f32], rows: Range<usize>) {
        let mut columns = columns.chunks_exact(self.q);
        for unit in 0..self.c * self.r {
            for s in 0..self.s {
                for (p, from) in rows.clone().zip(&mut columns) {
                    add_chunk(&mut planes[self.place(unit, s, p)..][..self.q], from);
                }
            }
        }
    }
}
