//! 2-D convolution as matrix products over the columns of a picture (im2col), forward and backward to input and weight.
//!
//! A column holds what the kernel sees at one output position: `columns[(c, r, s)][(p, q)] = x[c, p * stride + r * dilation, ...]`.
//! They are made for one picture and a few output rows at a time, in scratch memory that mostly stays in the cache, from
//! [`Padded`] planes: so every stretch of a row is one contiguous copy. Where fewer multiplications will do, [`Winograd`] does it.

use std::ops::Range;

use rayon::prelude::*;

use super::CpuOp;
use super::matmul::{Matrix, Panels, matmul, matmul_by_rows, row_length};
use super::memory::{Io, Kept};
use super::padded::Padded;
use super::parallel::Pieces;
use super::simd::{LANES, Vector, each, lanes, vectorised};
use super::transpose::transpose;
use super::winograd::{Weight, Winograd, tame};
use crate::ops::{Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight};
use crate::tensor::TensorType;

/// Most elements of columns made at a time: 2 MiB.
const COLUMNS: usize = 1 << 19;

/// Most elements of dy transposed at a time by the weight gradient, but for a larger picture: 8 MiB.
const TRANSPOSED: usize = 1 << 21;

/// Taps of the weight gradient that one task computes, about.
const SLAB: usize = 192;

impl CpuOp for Conv2d {
    fn scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        let g = Geometry::new(self, &inputs[0].shape, &inputs[1].shape, &outputs[0].shape);
        let fast = g.winograd(self).map_or(0, |fast| fast.scratch(threads));
        fast.max(threads * (g.planes() + g.taps() * g.block()))
    }

    /// The kernels that [`Winograd`] transformed.
    fn kept(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
        let g = Geometry::new(self, &inputs[0].shape, &inputs[1].shape, &outputs[0].shape);
        g.winograd(self).map_or(0, |fast| fast.transformed())
    }

    fn run(&self, mut io: Io) {
        let (x, w, y) = (io.f32(0), io.f32(1), io.output(0));
        let g = Geometry::new(self, io.shape(0), io.shape(1), io.output_shape(0));
        if let Some(fast) = g.winograd(self).filter(|_| tame(x)) {
            let (kept, threads) = (io.kept(), io.threads());
            let ready = kept.as_ref().is_some_and(|kept| *kept.ready);
            if ready || tame(w) {
                let scratch = io.scratch();
                let Some(Kept { memory, ready }) = kept else {
                    return fast.convolve(x, Weight::Plain { w, turned: false }, y, scratch, threads);
                };
                if !*ready {
                    fast.transform(memory, w, scratch, threads);
                    *ready = true;
                }
                return fast.convolve(x, Weight::Transformed(memory), y, scratch, threads);
            }
        }
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
                        let columns = Panels::rows(columns, [g.taps(), width], row_length(width));
                        let w = Matrix::rows(w, [g.o, g.taps()], g.taps());
                        matmul_by_rows(&mut y[first..], g.positions(), w, columns, g.o.div_ceil(threads));
                    }
                }
            })
        });
    }
}

impl CpuOp for Conv2dBackwardInput {
    fn scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        let g = Geometry::new(&self.conv, &outputs[0].shape, &inputs[1].shape, &inputs[0].shape);
        let fast = g.winograd_input(&self.conv).map_or(0, |fast| fast.scratch(threads));
        fast.max(threads * (g.planes() + g.taps() * g.block()))
    }

    fn run(&self, mut io: Io) {
        let (dy, w, dx) = (io.f32(0), io.f32(1), io.output(0));
        let g = Geometry::new(&self.conv, io.output_shape(0), io.shape(1), io.shape(0));
        if let Some(fast) = g.winograd_input(&self.conv).filter(|_| tame(dy) && tame(w)) {
            return fast.convolve(dy, Weight::Plain { w, turned: true }, dx, io.scratch(), io.threads());
        }
        let scratch = Pieces::new(io.scratch(), g.planes() + g.taps() * g.block(), io.threads());
        let weight = w.len() / g.groups;
        each_picture(dx, g.groups * g.x(), dy, g.groups * g.y(), io.threads(), |dx, dy, threads| {
            scratch.with(|scratch| {
                let (planes, columns) = scratch.split_at_mut(g.planes());
                let groups = dx.chunks_exact_mut(g.x()).zip(dy.chunks_exact(g.y())).zip(w.chunks_exact(weight));
                for ((dx, dy), w) in groups {
                    planes.fill(0.0);
                    for (rows, first, width) in g.blocks() {
                        let dy = Panels::rows(&dy[first..], [g.o, width], g.positions());
                        let w = Matrix::rows(w, [g.o, g.taps()], g.taps());
                        matmul_by_rows(columns, row_length(width), w.t(), dy, g.taps().div_ceil(threads));
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
        let fast = g.winograd_weight(&self.conv).map_or(0, |fast| fast.gradient_scratch(threads));
        let transposed = (g.taps() + g.pictures() * g.positions()) * row_length(g.o);
        fast.max(transposed + threads * (g.planes() + g.slab() * self.kernel[1] * g.block()))
    }

    /// By way of the transposes of dy and dw, some pictures at a time. Each task computes a slab of the taps, all output channels
    /// of it, for these pictures in order.
    fn run(&self, mut io: Io) {
        let (x, dy, dw, scratch) = (io.f32(0), io.f32(1), io.output(0), io.scratch());
        let g = Geometry::new(&self.conv, io.shape(0), io.output_shape(0), io.shape(1));
        if let Some(fast) = g.winograd_weight(&self.conv).filter(|_| tame(x) && tame(dy)) {
            return fast.weight_gradient(x, dy, dw, scratch, io.threads());
        }
        let [kernel_h, kernel_w] = self.kernel;
        let (row, slab_taps) = (row_length(g.o), g.slab() * kernel_w);
        let (dw_t, scratch) = scratch.split_at_mut(g.taps() * row);
        let (dy_t, scratch) = scratch.split_at_mut(g.pictures() * g.positions() * row);
        let scratch = Pieces::new(scratch, g.planes() + slab_taps * g.block(), io.threads());
        for (group, dw) in dw.chunks_exact_mut(g.o * g.taps()).enumerate() {
            for start in (0..g.n).step_by(g.pictures()) {
                let pictures = start..(start + g.pictures()).min(g.n);
                let dy_of_picture = dy_t.par_chunks_mut(g.positions() * row).zip(pictures.clone());
                dy_of_picture.for_each(|(dy_t, n)| {
                    transpose(dy_t, row, &dy[(n * g.groups + group) * g.y()..], g.positions(), [g.o, g.positions()]);
                });
                let dy_t = &dy_t[..];
                dw_t.par_chunks_mut(slab_taps * row).enumerate().for_each(|(i, dw_t)| {
                    let units = i * g.slab()..((i + 1) * g.slab()).min(g.units());
                    let channels = units.start / kernel_h..units.end.div_ceil(kernel_h);
                    let taps = units.len() * kernel_w;
                    scratch.with(|scratch| {
                        let (planes, columns) = scratch.split_at_mut(g.planes());
                        for (n, dy_t) in pictures.clone().zip(dy_t.chunks_exact(g.positions() * row)) {
                            let x = &x[(n * g.groups + group) * g.x()..][..g.x()];
                            let [plane, padded] =
                                [g.x() / g.c, g.window.plane()].map(|size| channels.start * size..channels.end * size);
                            g.window.spread(&mut planes[padded], &x[plane], 0.0);
                            for (rows, first, width) in g.blocks() {
                                g.columns(columns, planes, units.clone(), rows);
                                let columns = Matrix::rows(columns, [taps, width], row_length(width));
                                let dy_t = Panels::rows(&dy_t[first * row..], [width, g.o], row);
                                matmul(dw_t, row, columns, dy_t, n > 0 || first > 0);
                            }
                        }
                    })
                });
            }
            let dw_t = &dw_t[..];
            dw.par_chunks_mut(LANES * g.taps()).enumerate().for_each(|(i, dw)| {
                transpose(dw, g.taps(), &dw_t[i * LANES..], row, [g.taps(), dw.len() / g.taps()]);
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

/// Whether the taps lie side by side and move by one.
fn dense(conv: &Conv2d) -> bool {
    conv.stride == [1; 2] && conv.dilation == [1; 2]
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

    /// The forward convolution with fewer multiplications, where there is a way.
    fn winograd(&self, conv: &Conv2d) -> Option<Winograd> {
        let (channels, planes) = ([self.n, self.groups, self.c, self.o], [self.window.input, self.window.output]);
        dense(conv).then(|| Winograd::convolution(channels, planes, self.window.kernel, conv.padding))?
    }

    /// The same of the gradient to the input.
    fn winograd_input(&self, conv: &Conv2d) -> Option<Winograd> {
        let (channels, planes) = ([self.n, self.groups, self.o, self.c], [self.window.output, self.window.input]);
        let padding = |axis: usize| (self.window.kernel[axis] - 1).checked_sub(conv.padding[axis]);
        let padding = [padding(0)?, padding(1)?];
        dense(conv).then(|| Winograd::convolution(channels, planes, self.window.kernel, padding))?
    }

    /// The same of the gradient to the weight.
    fn winograd_weight(&self, conv: &Conv2d) -> Option<Winograd> {
        let (channels, planes) = ([self.n, self.groups, self.c, self.o], [self.window.input, self.window.output]);
        dense(conv).then(|| Winograd::gradient(channels, planes, self.window.kernel, conv.padding))?
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

    /// Elements of a row of columns, at most.
    fn block(&self) -> usize {
        row_length(self.block_rows() * self.window.output[1])
    }

    /// Pictures whose dy is transposed at a time by the weight gradient.
    fn pictures(&self) -> usize {
        (TRANSPOSED / (self.positions() * row_length(self.o))).clamp(1, self.n)
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
        let width = rows.len() * q;
        for ((unit, s), to) in self.tap_list(units).zip(columns.chunks_exact_mut(row_length(width))) {
            copy_rows(&mut to[..width], q, &planes[self.place(unit, s, rows.start)..], self.window.step());
        }
    }

    /// The transpose of [`Geometry::columns`] over all taps: adds each column to where it came from.
    fn add_columns(&self, planes: &mut [f32], columns: &[f32], rows: Range<usize>) {
        let q = self.window.output[1];
        let width = rows.len() * q;
        for ((unit, s), from) in self.tap_list(0..self.units()).zip(columns.chunks_exact(row_length(width))) {
            add_rows(&mut planes[self.place(unit, s, rows.start)..], self.window.step(), &from[..width], q);
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
        fn sum(a: &Vector, b: &Vector) -> Vector {
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
