//! The gradient to the weight, by Winograd.

use rayon::prelude::*;

use super::super::matmul::{COLUMNS, Matrix, Panels, matmul};
use super::super::parallel::Pieces;
use super::super::transpose::transpose;
use super::transform::{Cotangent, Input, KernelGradient, Transform};
use super::{Layout, M, OUTS, Planes, Winograd};

/// Most elements of tiles that the gradient to the weight makes before it adds them up: 16 MiB.
const BLOCKS: usize = 1 << 22;

impl Winograd {
    /// f32 elements of scratch memory of [`Winograd::weight_gradient`].
    pub fn gradient_scratch(&self, threads: usize) -> usize {
        let tiles = self.blocks_at_once() * self.square() * (self.x_tiles().len + self.dy_tiles().len);
        self.square() * Layout::rows(self.outs, self.ins).len + tiles + threads * self.own()
    }

    /// dw from x and dy.
    pub fn weight_gradient(&self, x: &[f32], dy: &[f32], dw: &mut [f32], scratch: &mut [f32], threads: usize) {
        match self.r {
            3 => self.weight_gradient_by::<3, 4>(x, dy, dw, scratch, threads),
            _ => self.weight_gradient_by::<5, 6>(x, dy, dw, scratch, threads),
        }
    }

    fn weight_gradient_by<const R: usize, const T: usize>(
        &self,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
        scratch: &mut [f32],
        threads: usize,
    ) where
        Input: Transform<T, T>,
        Cotangent: Transform<M, T>,
        KernelGradient: Transform<T, R>,
    {
        let (read, written, kernels) = (self.x_tiles(), self.dy_tiles(), Layout::rows(self.outs, self.ins));
        let (u, scratch) = scratch.split_at_mut(T * T * kernels.len);
        let (v, scratch) = scratch.split_at_mut(self.blocks_at_once() * T * T * read.len);
        let (q, scratch) = scratch.split_at_mut(self.blocks_at_once() * T * T * written.len);
        let own = Pieces::new(scratch, self.own(), threads);
        let [x_plane, dy_plane] = [self.input, self.output].map(|[height, width]| height * width);
        // (picture, rows of tiles)
        let blocks: Vec<_> = (0..self.n).flat_map(|n| self.blocks().map(move |bands| (n, bands))).collect();
        for (group, dw) in dw.chunks_exact_mut(self.outs * self.ins * R * R).enumerate() {
            for (index, blocks) in blocks.chunks(self.blocks_at_once()).enumerate() {
                let tiles = v.par_chunks_mut(T * T * read.len).zip(q.par_chunks_mut(T * T * written.len));
                tiles.zip(blocks).for_each(|((v, q), (n, bands))| {
                    let picture = n * self.groups + group;
                    let x = self.input(&x[picture * self.ins * x_plane..]);
                    let dy = Planes {
                        data: &dy[picture * self.outs * dy_plane..],
                        channels: self.outs,
                        extent: self.output,
                        padding: [0; 2],
                    };
                    own.with(|own| {
                        self.transform_planes::<T, T, Input>(v, read, x, bands.clone(), own);
                        self.transform_planes::<M, T, Cotangent>(q, written, dy, bands.clone(), own);
                    })
                });
                let (v, q) = (&v[..], &q[..]);
                u.par_chunks_mut(kernels.len).enumerate().for_each(|(k, u)| {
                    u[..kernels.panel].par_chunks_mut(OUTS * kernels.width).enumerate().for_each(|(i, u)| {
                        let outs = u.len() / kernels.width;
                        for (block, (_, bands)) in blocks.iter().enumerate() {
                            let tiles = bands.len() * self.width();
                            let q = &q[(block * T * T + k) * written.len + i * written.panel..];
                            let q = Matrix::rows(q, [tiles, outs], written.width);
                            let v = &v[(block * T * T + k) * read.len..];
                            let v = Panels::packed(v, [read.panel / COLUMNS, self.ins]).top(tiles);
                            matmul(u, kernels.width, q.t(), v, index + block > 0);
                        }
                    })
                });
            }
            let u = &u[..];
            dw.par_chunks_mut(self.ins * R * R).enumerate().for_each(|(o, dw)| {
                own.with(|own| {
                    let taps = Layout::rows(1, self.ins);
                    taps.put::<T, R, KernelGradient>(own, 0, u, &kernels.places(o, T * T), self.ins);
                    transpose(dw, R * R, own, taps.len, [R * R, self.ins]);
                })
            });
        }
    }

    /// Blocks whose tiles are in memory at once for the gradient to the weight.
    fn blocks_at_once(&self) -> usize {
        let blocks = self.n * self.blocks().count();
        (BLOCKS / (self.square() * (self.x_tiles().len + self.dy_tiles().len))).clamp(1, blocks)
    }

    /// Tiles of x, as the gradient to the weight reads them.
    fn x_tiles(&self) -> Layout {
        Layout::panels(self.bands() * self.width(), self.ins, COLUMNS)
    }

    /// Tiles of dy, as the gradient to the weight reads them.
    fn dy_tiles(&self) -> Layout {
        Layout::panels(self.bands() * self.width(), self.outs, OUTS)
    }
}
