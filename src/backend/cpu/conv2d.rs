//! 2-D convolution as matrix products over the columns of a picture (im2col), forward and backward to input and weight.
//!
//! A column holds what the kernel sees at one output position: `columns[(c, r, s)][(p, q)] = x[c, p * stride + r * dilation, ...]`.
//! They are made for one picture and a few output rows at a time, in scratch memory that mostly stays in the cache, from
//! [`Padded`] planes: so every stretch of a row is one contiguous copy.

use std::ops::Range;

use rayon::prelude::*;

use super::CpuOp;
use super::matmul::{Matrix, matmul};
use super::memory::Io;
use super::padded::Padded;
use super::parallel::Pieces;
use super::simd::{each, lanes, vectorised};
use crate::ops::{Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight};
use crate::tensor::TensorType;

/// Most elements of columns made at a time: 2 MiB.
const COLUMNS: usize = 1 << 19;

/// Taps of the weight gradient that one task computes, about.
const SLAB: usize = 192;

impl CpuOp for Conv2d {
    fn scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        let g = Geometry::new(self, &inputs[0].shape, &inputs[1].shape, &outputs[0].shape);
        threads * (g.planes() + g.taps() * g.block())
    }

    fn run(&self, mut io: Io) {
        let (x, w, y) = (io.f32(0), io.f32(1), io.output(0));
        let g = Geometry::new(self, io.shape(0), io.shape(1), io.output_shape(0));
        let scratch = Pieces::new(io.scratch(), g.planes() + g.taps() * g.block(), io.threads());
        let weight = w.len() / g.groups;
        each_picture(y, g.groups * g.y(), x, g.groups * g.x(), io.threads(), |y, x, threads| {
            scratch.with(|scratch| {
                let (planes, columns) = scratch.split_at_mut(g.planes());
                let groups = y.chunks_exact_mut(g.y()).zip(x.chunks_exact(g.x())).zip(w.chunks_exact(weight));
                for ((y, x), w) in groups {
                    g.window.spread(planes, x, 0.0);
                    for (rows, first, width) in g.blocks() {
                        g.columns(columns, planes, 0..g.units(), rows);
                        let columns = Matrix::rows(columns, [g.taps(), width], width);
                        let w = Matrix::rows(w, [g.o, g.taps()], g.taps());
                        matmul(&mut y[first..], g.positions(), w, columns, false, threads);
                    }
                }
            })
        });
    }
}

impl CpuOp for Conv2dBackwardInput {
    fn scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        let g = Geometry::new(&self.conv, &outputs[0].shape, &inputs[1].shape, &inputs[0].shape);
        threads * (g.planes() + g.taps() * g.block())
    }

    fn run(&self, mut io: Io) {
        let (dy, w, dx) = (io.f32(0), io.f32(1), io.output(0));
        let g = Geometry::new(&self.conv, io.output_shape(0), io.shape(1), io.shape(0));
        let scratch = Pieces::new(io.scratch(), g.planes() + g.taps() * g.block(), io.threads());
        let weight = w.len() / g.groups;
        each_picture(dx, g.groups * g.x(), dy, g.groups * g.y(), io.threads(), |dx, dy, threads| {
            scratch.with(|scratch| {
                let (planes, columns) = scratch.split_at_mut(g.planes());
                let groups = dx.chunks_exact_mut(g.x()).zip(dy.chunks_exact(g.y())).zip(w.chunks_exact(weight));
                for ((dx, dy), w) in groups {
                    planes.fill(0.0);
                    for (rows, first, width) in g.blocks() {
                        let dy = Matrix::rows(&dy[first..], [g.o, width], g.positions());
                        let w = Matrix::rows(w, [g.o, g.taps()], g.taps());
                        matmul(columns, width, w.t(), dy, false, threads);
                        g.add_columns(planes, columns, rows);
                    }
                    g.window.collect(dx, planes);
                }
            })
        });
    }
}

impl CpuOp for Conv2dBackwardWeight {
    fn scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        let g = Geometry::new(&self.conv, &inputs[0].shape, &outputs[0].shape, &inputs[1].shape);
        outputs[0].shape.elements() + threads * (g.planes() + g.slab() * self.kernel[1] * g.block())
    }

    /// Each task computes a slab of the taps, all output channels of it, for all pictures in order.
    fn run(&self, mut io: Io) {
        let (x, dy, dw, scratch) = (io.f32(0), io.f32(1), io.output(0), io.scratch());
        let g = Geometry::new(&self.conv, io.shape(0), io.output_shape(0), io.shape(1));
        let [kernel_h, kernel_w] = self.kernel;
        let (slabs, scratch) = scratch.split_at_mut(dw.len());
        let scratch = Pieces::new(scratch, g.planes() + g.slab() * kernel_w * g.block(), io.threads());
        let (weight, slab_taps) = (dw.len() / g.groups, g.slab() * kernel_w);
        for (group, (dw, slabs)) in dw.chunks_exact_mut(weight).zip(slabs.chunks_exact_mut(weight)).enumerate() {
            slabs.par_chunks_mut(g.o * slab_taps).enumerate().for_each(|(i, slab)| {
                let units = i * g.slab()..((i + 1) * g.slab()).min(g.units());
                let channels = units.start / kernel_h..units.end.div_ceil(kernel_h);
                let taps = units.len() * kernel_w;
                scratch.with(|scratch| {
                    let (planes, columns) = scratch.split_at_mut(g.planes());
                    for picture in (0..g.n).map(|n| n * g.groups + group) {
                        let (x, dy) = (&x[picture * g.x()..][..g.x()], &dy[picture * g.y()..][..g.y()]);
                        let [plane, padded] =
                            [g.x() / g.c, g.window.plane()].map(|size| channels.start * size..channels.end * size);
                        g.window.spread(&mut planes[padded], &x[plane], 0.0);
                        for (rows, first, width) in g.blocks() {
                            g.columns(columns, planes, units.clone(), rows);
                            let columns = Matrix::rows(columns, [taps, width], width);
                            let dy = Matrix::rows(&dy[first..], [g.o, width], g.positions());
                            matmul(slab, taps, dy, columns.t(), picture > group || first > 0, 1);
                        }
                    }
                })
            });
            dw.par_chunks_mut(g.taps()).enumerate().for_each(|(o, dw)| {
                for (dw, slab) in dw.chunks_mut(slab_taps).zip(slabs.chunks(g.o * slab_taps)) {
                    dw.copy_from_slice(&slab[o * dw.len()..][..dw.len()]);
                }
            });
        }
    }
}

/// Calls `f(output, input, threads)` for the pictures of a batch: side by side with one thread each, or, when there are
/// fewer pictures than threads, one after the other with all threads.
fn each_picture(
    outputs: &mut [f32],
    output: usize,
    inputs: &[f32],
    input: usize,
    threads: usize,
    f: impl Fn(&mut [f32], &[f32], usize) + Sync,
) {
    if inputs.len() / input >= threads {
        outputs.par_chunks_mut(output).zip(inputs.par_chunks(input)).for_each(|(y, x)| f(y, x, 1));
    } else {
        outputs.chunks_mut(output).zip(inputs.chunks(input)).for_each(|(y, x)| f(y, x, threads));
    }
}

/// Extents of a convolution; c and o count the channels of one group.
struct Geometry {
    n: usize,
    groups: usize,
    c: usize,
    o: usize,
    window: Padded,
}

impl Geometry {
    /// From the shapes of x, w and y.
    fn new(conv: &Conv2d, x: &[usize], w: &[usize], y: &[usize]) -> Self {
        let (kernel, input, output) = ([w[2], w[3]], [x[2], x[3]], [y[2], y[3]]);
        let window = Padded::new(input, output, kernel, conv.stride, conv.padding, conv.dilation);
        Geometry { n: x[0], groups: conv.groups, c: w[1], o: w[0] / conv.groups, window }
    }

    /// Elements of a picture of x, of one group.
    fn x(&self) -> usize {
        self.c * self.window.input[0] * self.window.input[1]
    }

    /// Elements of a picture of y, of one group.
    fn y(&self) -> usize {
        self.o * self.positions()
    }

    /// Output positions of a picture: columns of the product.
    fn positions(&self) -> usize {
        self.window.output[0] * self.window.output[1]
    }

    /// Pairs (c, r).
    fn units(&self) -> usize {
        self.c * self.window.kernel[0]
    }

    /// Taps (c, r, s) of one group: columns of the weight matrix, rows of the columns.
    fn taps(&self) -> usize {
        self.units() * self.window.kernel[1]
    }

    /// Elements of the padded planes of a group.
    fn planes(&self) -> usize {
        self.c * self.window.plane()
    }

    /// Output rows whose columns are made at a time: blocks are of about one size.
    fn block_rows(&self) -> usize {
        let [p, q] = self.window.output;
        let most = (COLUMNS / (self.taps() * q)).max(1);
        p.div_ceil(p.div_ceil(most))
    }

    /// Most columns made at a time.
    fn block(&self) -> usize {
        self.block_rows() * self.window.output[1]
    }

    /// The output rows, block by block: (rows, first position, positions).
    fn blocks(&self) -> impl Iterator<Item = (Range<usize>, usize, usize)> {
        let (rows, [p, q]) = (self.block_rows(), self.window.output);
        (0..p).step_by(rows).map(move |first| {
            let rows = first..(first + rows).min(p);
            (rows.clone(), rows.start * q, rows.len() * q)
        })
    }

    /// Pairs (c, r) of one slab of the weight gradient: as the shapes have it, so that sums do not depend on the number of threads.
    fn slab(&self) -> usize {
        let slabs = (self.taps() / SLAB).next_multiple_of(2).clamp(2, 16);
        self.units().div_ceil(slabs)
    }

    /// Columns of the taps (unit, s) at the output rows.
    fn columns(&self, columns: &mut [f32], planes: &[f32], units: Range<usize>, rows: Range<usize>) {
        let q = self.window.output[1];
        for ((unit, s), to) in self.tap_list(units).zip(columns.chunks_exact_mut(rows.len() * q)) {
            copy_rows(to, q, &planes[self.place(unit, s, rows.start)..], self.window.step());
        }
    }

    /// The transpose of [`Geometry::columns`] over all taps: adds each column to where it came from.
    fn add_columns(&self, planes: &mut [f32], columns: &[f32], rows: Range<usize>) {
        let q = self.window.output[1];
        for ((unit, s), from) in self.tap_list(0..self.units()).zip(columns.chunks_exact(rows.len() * q)) {
            add_rows(&mut planes[self.place(unit, s, rows.start)..], self.window.step(), from, q);
        }
    }

    fn tap_list(&self, units: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
        let kernel_w = self.window.kernel[1];
        units.flat_map(move |unit| (0..kernel_w).map(move |s| (unit, s)))
    }

    /// Where output row p reads the tap in the padded planes of a group.
    fn place(&self, unit: usize, s: usize, p: usize) -> usize {
        let [kernel_h, kernel_w] = self.window.kernel;
        let tap = self.window.taps[unit % kernel_h * kernel_w + s];
        unit / kernel_h * self.window.plane() + tap + p * self.window.step()
    }
}

/// Elements that [`copy_rows`] and [`add_rows`] move at once.
const LANES: usize = 8;

vectorised! {
    /// Row i of `to`, of `q` elements, from `from[i * step..]`. A rest of less than a vector overlaps what was copied before: rows
    /// are short (13 in AlexNet), and a loop over the rest would cost more than the copy.
    fn copy_rows(to: &mut [f32], q: usize, from: &[f32], step: usize) {
        for (i, to) in to.chunks_exact_mut(q).enumerate() {
            let from = &from[i * step..][..q];
            if let (Some(last), Some(last_from)) = (to.last_chunk_mut::<LANES>(), from.last_chunk()) {
                *last = *last_from;
                each(to.as_chunks_mut::<LANES>().0, from.as_chunks().0, |to, from| *to = *from);
            } else {
                each(to, from, |to, from| *to = *from);
            }
        }
    }
}

vectorised! {
    /// `to[i * step..]` += row i of `from`, of `q` elements. The rest that overlaps is added up before anything is written.
    fn add_rows(to: &mut [f32], step: usize, from: &[f32], q: usize) {
        #[inline(always)]
        fn sum(a: &[f32; LANES], b: &[f32; LANES]) -> [f32; LANES] {
            lanes(0.0, |i| a[i] + b[i])
        }
        for (i, from) in from.chunks_exact(q).enumerate() {
            let to = &mut to[i * step..][..q];
            if let (Some(last), Some(last_from)) = (to.last_chunk::<LANES>(), from.last_chunk()) {
                let last = sum(last, last_from);
                each(to.as_chunks_mut::<LANES>().0, from.as_chunks().0, |to, from| *to = sum(to, from));
                to[q - LANES..].copy_from_slice(&last);
            } else {
                each(to, from, |to, from| *to += from);
            }
        }
    }
}
