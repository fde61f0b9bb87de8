//! Convolution with fewer multiplications: Winograd's minimal filtering F(2x2, RxR) for kernels of 3x3 and 5x5 with stride 1
//! (Lavin and Gray 2015, arXiv:1509.09308). Of a tile of 2x2 outputs
//!
//! ```text
//! y  = A^T [(G w G^T) * (B^T x B)] A        summed over input channels; * element by element
//! dw = G^T [(A dy A^T) * (B^T x B)] G       summed over tiles
//! ```
//!
//! and the gradient to the input is a forward convolution with the kernels turned round. So a product for each of the TxT
//! elements (T = R + 1) takes the place of R x R products at four outputs: 2.25 times fewer multiplications for 3x3, 2.8
//! times for 5x5. The points that the matrices interpolate at are 0, 1, -1 and infinity, for 5x5 also 1/2 and -2.
//!
//! Pictures are transposed to channels last on the way in and out, so that a vector holds one number of each of eight channels,
//! and all that the matrices do is one loop, [`transform`]. Element k of all tiles is a matrix [tiles, channels], and what is
//! summed are products of matrices.
//!
//! The result is off by what rounding may do to the plain sum ([`crate::ops::Operator::scale`] and its tolerance): by a quarter of it
//! for 3x3; by half of it for 5x5 where enough terms are added up, and only there it is used. (Tiles of 4x4 outputs are off by
//! more: so they are not.) That holds for numbers of about one size: rounding is relative to the largest of a tile, and an output
//! beside a much larger one shares its error, as in every library that uses this. A number too large for the sums of a tile, or no
//! number, would spread over its tile: [`tame`] looks for them.

mod gradient;
mod transform;

use std::ops::Range;

use rayon::prelude::*;

use super::matmul::{COLUMNS, Matrix, Panels, matmul, row_length};
use super::parallel::{CHUNK, Pieces};
use super::simd::{LANES, vectorised};
use super::transpose::transpose;
use transform::{Input, Kernel, Output, Transform, transform};

/// Outputs of a tile along an axis.
const M: usize = 2;

/// Most elements of the tiles of a block, read and written, but for a row of many tiles: 6 MiB.
const BLOCK: usize = 3 << 19;

/// Output channels of a task, where there are more threads than pictures, and of the gradient to the weight.
const OUTS: usize = 48;

/// Whether none of `x` is NaN, infinite or so large that the sums of a tile could overflow where those of an output do not.
pub(super) fn tame(x: &[f32]) -> bool {
    x.par_chunks(CHUNK).all(|x| largest(x) < 2.0f32.powi(50))
}

vectorised! {
    /// The largest magnitude; infinity if one is NaN.
    fn largest(x: &[f32]) -> f32 {
        let mut largest = [0.0f32; LANES];
        let (vectors, rest) = x.as_chunks::<LANES>();
        let more = |most: f32, x: f32| if x.abs() <= most { most } else if x.is_nan() { f32::INFINITY } else { x.abs() };
        for vector in vectors {
            for i in 0..LANES {
                largest[i] = more(largest[i], vector[i]);
            }
        }
        largest.into_iter().chain(rest.iter().copied()).fold(0.0, more)
    }
}

/// How matrices lie in scratch memory, one for each element of a tile, `len` elements from one to the next. Their columns are cut
/// into panels of `width`, `panel` elements from one to the next.
#[derive(Clone, Copy)]
struct Layout {
    width: usize,
    panel: usize,
    len: usize,
}

impl Layout {
    /// Matrices to be read down the columns: panels as wide as `width`.
    fn panels(rows: usize, columns: usize, width: usize) -> Self {
        let panel = rows * width;
        Layout { width, panel, len: row_length(columns.div_ceil(width) * panel) }
    }

    /// Matrices to be read along the rows: one panel.
    fn rows(rows: usize, columns: usize) -> Self {
        Layout::panels(rows, columns, row_length(columns))
    }

    /// Transforms a tile of `channels` into row `i` of the matrices.
    fn put<const I: usize, const O: usize, S: Transform<I, O>>(
        &self,
        to: &mut [f32],
        i: usize,
        from: &[f32],
        tile: &[usize],
        channels: usize,
    ) {
        let places = self.places(i, O * O);
        for (panel, first) in (0..channels).step_by(self.width).enumerate() {
            let to = &mut to[panel * self.panel..];
            transform::<I, O, S>(to, &places, &from[first..], tile, self.width.min(channels - first));
        }
    }

    /// Where row `i` of each of so many matrices begins.
    fn places(&self, i: usize, matrices: usize) -> Vec<usize> {
        (0..matrices).map(|k| k * self.len + i * self.width).collect()
    }
}

/// The planes of a picture.
#[derive(Clone, Copy)]
struct Planes<'a> {
    data: &'a [f32],
    channels: usize,
    /// Height and width.
    extent: [usize; 2],
    padding: [usize; 2],
}

/// The kernels of a convolution.
#[derive(Clone, Copy)]
pub(super) enum Weight<'a> {
    /// `turned`: it is [ins, outs, R, R] with the kernels turned round, as the gradient to the input needs it.
    Plain { w: &'a [f32], turned: bool },
    /// By [`Winograd::transform`].
    Transformed(&'a [f32]),
}

/// A convolution of stride 1 over tiles of its output: forward, or the gradient to the input or the weight.
pub(super) struct Winograd {
    /// Extent of the kernel.
    r: usize,
    n: usize,
    groups: usize,
    /// Channels of a group, read and written.
    ins: usize,
    outs: usize,
    /// Heights and widths of what is read and what is written.
    input: [usize; 2],
    output: [usize; 2],
    padding: [usize; 2],
}

impl Winograd {
    /// The convolution of n pictures of `groups * ins` planes of `input` to `groups * outs` planes of `output`, or `None` where
    /// plain sums are as good.
    pub fn convolution(
        channels: [usize; 4],
        planes: [[usize; 2]; 2],
        kernel: [usize; 2],
        padding: [usize; 2],
    ) -> Option<Self> {
        Winograd::new(channels, planes, kernel, padding).filter(|new| new.r == 3 || new.ins >= 96)
    }

    /// The gradient to the weight of such a convolution, or `None`.
    pub fn gradient(
        channels: [usize; 4],
        planes: [[usize; 2]; 2],
        kernel: [usize; 2],
        padding: [usize; 2],
    ) -> Option<Self> {
        let tiles = |new: &Winograd| new.n * new.output.iter().map(|extent| extent.div_ceil(M)).product::<usize>();
        Winograd::new(channels, planes, kernel, padding).filter(|new| tiles(new) >= if new.r == 3 { 32 } else { 3000 })
    }

    fn new(
        [n, groups, ins, outs]: [usize; 4],
        [input, output]: [[usize; 2]; 2],
        kernel: [usize; 2],
        padding: [usize; 2],
    ) -> Option<Self> {
        let known = matches!(kernel, [3, 3] | [5, 5]) && ins >= LANES && outs >= LANES;
        known.then_some(Winograd { r: kernel[0], n, groups, ins, outs, input, output, padding })
    }

    /// f32 elements of scratch memory of [`Winograd::convolve`].
    pub fn scratch(&self, threads: usize) -> usize {
        let tiles = self.square() * (self.rows(self.ins).len + self.rows(self.outs).len);
        self.transformed_group() + threads * (tiles + self.own())
    }

    /// y from x and w.
    pub fn convolve(&self, x: &[f32], w: Weight, y: &mut [f32], scratch: &mut [f32], threads: usize) {
        match self.r {
            3 => self.convolve_by::<3, 4>(x, w, y, scratch, threads),
            _ => self.convolve_by::<5, 6>(x, w, y, scratch, threads),
        }
    }

    /// f32 elements of the transformed kernels of all groups.
    pub fn transformed(&self) -> usize {
        self.groups * self.transformed_group()
    }

    /// Transforms the kernels of all groups.
    pub fn transform(&self, u: &mut [f32], w: &[f32], scratch: &mut [f32], threads: usize) {
        let groups = u.chunks_exact_mut(self.transformed_group()).zip(w.chunks_exact(w.len() / self.groups));
        let own = Pieces::new(scratch, self.own(), threads);
        for (u, w) in groups {
            match self.r {
                3 => self.transform_group::<3, 4>(u, w, false, &own),
                _ => self.transform_group::<5, 6>(u, w, false, &own),
            }
        }
    }

    /// f32 elements of the transformed kernels of a group.
    fn transformed_group(&self) -> usize {
        self.ins.div_ceil(self.depth()) * self.square() * self.kernels().len
    }

    fn transform_group<const R: usize, const T: usize>(&self, u: &mut [f32], w: &[f32], turned: bool, own: &Pieces)
    where
        Kernel: Transform<R, T>,
    {
        u.par_chunks_mut(T * T * self.kernels().len).enumerate().for_each(|(i, u)| {
            own.with(|own| self.transform_kernels::<R, T>(u, w, i * self.depth(), turned, own));
        });
    }

    fn convolve_by<const R: usize, const T: usize>(
        &self,
        x: &[f32],
        w: Weight,
        y: &mut [f32],
        scratch: &mut [f32],
        threads: usize,
    ) where
        Kernel: Transform<R, T>,
        Input: Transform<T, T>,
        Output: Transform<T, M>,
    {
        let (groups, plane, len) = (self.groups, self.output[0] * self.output[1], self.transformed_group());
        let (own_u, scratch) = scratch.split_at_mut(len);
        let own = Pieces::new(scratch, scratch.len() / threads, threads);
        // So many output channels that there is a task for each thread.
        let part = self.outs.div_ceil(threads.div_ceil(self.n * groups)).next_multiple_of(OUTS).min(self.outs);
        for group in 0..groups {
            let u = match w {
                Weight::Transformed(u) => &u[group * len..][..len],
                Weight::Plain { w, turned } => {
                    let w = &w[group * w.len() / groups..][..w.len() / groups];
                    self.transform_group::<R, T>(own_u, w, turned, &own);
                    &own_u[..]
                }
            };
            let pictures =
                y.par_chunks_mut(self.outs * plane).zip(x.par_chunks(self.ins * self.input[0] * self.input[1]));
            pictures.skip(group).step_by(groups).for_each(|(y, x)| {
                y.par_chunks_mut(part * plane).enumerate().for_each(|(i, y)| {
                    own.with(|own| self.convolve_part::<T>(y, i * part, x, u, own));
                })
            });
        }
    }

    /// The output channels from `first` of a picture.
    fn convolve_part<const T: usize>(&self, y: &mut [f32], first: usize, x: &[f32], u: &[f32], own: &mut [f32])
    where
        Input: Transform<T, T>,
        Output: Transform<T, M>,
    {
        let (read, written, kernels) = (self.rows(self.ins), self.rows(self.outs), self.kernels());
        let (v, own) = own.split_at_mut(T * T * read.len);
        let (m, own) = own.split_at_mut(T * T * written.len);
        let outs = y.len() / (self.output[0] * self.output[1]);
        for bands in self.blocks() {
            let tiles = bands.len() * self.width();
            self.transform_planes::<T, T, Input>(v, read, self.input(x), bands.clone(), own);
            for (k, m) in m.chunks_exact_mut(written.len).enumerate() {
                for (u, channel) in u.chunks_exact(T * T * kernels.len).zip((0..self.ins).step_by(self.depth())) {
                    let depth = self.depth().min(self.ins - channel);
                    let v = Matrix::rows(&v[k * read.len + channel..], [tiles, depth], read.width);
                    let u = &u[k * kernels.len + first / COLUMNS * kernels.panel..];
                    matmul(m, written.width, v, Panels::packed(u, [self.depth(), outs]).top(depth), channel > 0);
                }
            }
            self.transform_outputs::<T>(y, m, bands, own);
        }
    }

    /// G w G^T of the kernels that read the input channels from `first`.
    fn transform_kernels<const R: usize, const T: usize>(
        &self,
        u: &mut [f32],
        w: &[f32],
        first: usize,
        turned: bool,
        own: &mut [f32],
    ) where
        Kernel: Transform<R, T>,
    {
        let (taps, row) = (R * R, row_length(self.outs));
        let mut from: Vec<usize> = (0..taps).map(|tap| tap * row).collect();
        if turned {
            from.reverse();
        }
        for i in 0..self.depth().min(self.ins - first) {
            let channel = first + i;
            let (start, out) =
                if turned { (channel * self.outs * taps, taps) } else { (channel * taps, self.ins * taps) };
            transpose(own, row, &w[start..], out, [self.outs, taps]);
            self.kernels().put::<R, T, Kernel>(u, i, own, &from, self.outs);
        }
    }

    /// Transforms the tiles of `bands`, of IxI, that move by 2 over the padded planes of a picture: B^T x B or A dy A^T.
    fn transform_planes<const I: usize, const T: usize, S: Transform<I, T>>(
        &self,
        to: &mut [f32],
        layout: Layout,
        planes: Planes,
        bands: Range<usize>,
        own: &mut [f32],
    ) {
        let Planes { data, channels, extent: [height, width], padding } = planes;
        let row = row_length(channels);
        let first = (M * bands.start).saturating_sub(padding[0]).min(height);
        let end = (M * (bands.end - 1) + I).saturating_sub(padding[0]).clamp(first, height);
        // The pixels of these rows, and one of zeros for all around them.
        let pixels = (end - first) * width;
        transpose(own, row, &data[first * width..], height * width, [channels, pixels]);
        own[pixels * row..][..row].fill(0.0);
        let mut tile = vec![0; I * I];
        for (at, band) in bands.enumerate() {
            for column in 0..self.width() {
                for (k, place) in tile.iter_mut().enumerate() {
                    let (y, x) = (M * band + k / I, M * column + k % I);
                    let inside = (first + padding[0]..end + padding[0]).contains(&y)
                        && (padding[1]..width + padding[1]).contains(&x);
                    *place = row * if inside { (y - padding[0] - first) * width + x - padding[1] } else { pixels };
                }
                layout.put::<I, T, S>(to, at * self.width() + column, own, &tile, channels);
            }
        }
    }

    /// Writes the outputs of the tiles of `bands`: A^T m A of what lies inside.
    fn transform_outputs<const T: usize>(&self, y: &mut [f32], m: &[f32], bands: Range<usize>, own: &mut [f32])
    where
        Output: Transform<T, M>,
    {
        let ([height, width], layout, row) = (self.output, self.rows(self.outs), row_length(self.outs));
        let channels = y.len() / (height * width);
        let (first, end) = (M * bands.start, height.min(M * bands.end));
        // The pixels of these rows, and one for all outside.
        let pixels = (end - first) * width;
        let mut tile = [0; M * M];
        for (at, band) in bands.enumerate() {
            for column in 0..self.width() {
                for (k, place) in tile.iter_mut().enumerate() {
                    let (y, x) = (M * band + k / M, M * column + k % M);
                    *place = row * if y < end && x < width { (y - first) * width + x } else { pixels };
                }
                let from = layout.places(at * self.width() + column, T * T);
                transform::<T, M, Output>(own, &tile, m, &from, channels);
            }
        }
        transpose(&mut y[first * width..], height * width, own, row, [pixels, channels]);
    }

    /// The picture that is read.
    fn input<'a>(&self, data: &'a [f32]) -> Planes<'a> {
        Planes { data, channels: self.ins, extent: self.input, padding: self.padding }
    }

    /// Elements of a tile.
    fn square(&self) -> usize {
        (self.r + 1) * (self.r + 1)
    }

    /// Tiles side by side.
    fn width(&self) -> usize {
        self.output[1].div_ceil(M)
    }

    /// Rows of tiles of a picture that are done at once.
    fn bands(&self) -> usize {
        let height = self.output[0].div_ceil(M);
        let most = BLOCK / (self.square() * (row_length(self.ins) + row_length(self.outs)) * self.width());
        height.div_ceil(height.div_ceil(most.max(1)))
    }

    /// The rows of tiles of a picture, block by block.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let (height, bands) = (self.output[0].div_ceil(M), self.bands());
        (0..height).step_by(bands).map(move |first| first..(first + bands).min(height))
    }

    /// Input channels whose kernels are transformed by one task. By the shapes, since the order of sums depends on it.
    fn depth(&self) -> usize {
        (self.ins / 4).next_multiple_of(16).max(48).min(self.ins)
    }

    /// Transformed kernels of [`Winograd::depth`] input channels: [ins, outs].
    fn kernels(&self) -> Layout {
        Layout::panels(self.depth(), self.outs, COLUMNS)
    }

    /// Tiles of a block, as a convolution reads and writes them: [tiles, channels].
    fn rows(&self, channels: usize) -> Layout {
        Layout::rows(self.bands() * self.width(), channels)
    }

    /// Elements of a thread's memory for a block's pixels, or the taps of kernels, of all channels.
    fn own(&self) -> usize {
        let (rows, [_, w], [_, q]) = (M * self.bands(), self.input, self.output);
        let read = ((rows + self.r - 1) * w + 1) * row_length(self.ins);
        let written = (rows * q + 1) * row_length(self.outs);
        read.max(written).max(self.r * self.r * row_length(self.ins.max(self.outs)))
    }
}
