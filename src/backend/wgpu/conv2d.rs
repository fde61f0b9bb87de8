//! Convolution as one implicit matrix product, see `shaders/conv2d_product.wgsl`: each of the three ops describes its product by
//! strides, and [`Product::lower`] chooses the kernels.

mod texels;

use std::ops::Range;

use super::WgpuOp;
use super::biased::Epilogue;
use super::dispatch::Builder;
use super::lowering::{Lowering, ValueRef, Window};
use super::matrices::Matrices;
use super::shaders::{conv2d, conv2d_f16};
use super::tile::{Parts, Tile, Way, part};
use crate::error::Result;
use crate::ops::{Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight};

impl WgpuOp for Conv2d {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        forward(self, cx, [&inputs[0], &inputs[1], &outputs[0]], None)
    }
}

/// y, finished.
pub(super) fn forward(
    conv: &Conv2d,
    cx: &mut Lowering,
    [x, w, y]: [&ValueRef; 3],
    epilogue: Option<Epilogue>,
) -> Result<()> {
    let e = Extents::new(conv, x, w, y);
    for pictures in cx.rows(e.batch, &[x, y])? {
        for part in e.weight_parts(cx, w)? {
            let product = Product {
                groups: part.groups,
                m: part.outputs.len(),
                n: pictures.len() * e.y_picture(),
                k: e.w_output(),
                a: part.window(cx, w, &e)?.strided(e.o * e.w_output(), e.w_output(), 0, e.w_output()),
                pictures: Pictures::Columns,
                b: Patches {
                    window: cx.row_window(x, e.batch, &pictures)?.skip(part.group * e.c * e.x_picture()),
                    group: e.c * e.x_picture(),
                    column: e.groups * e.c * e.x_picture(),
                    term: e.x_picture(),
                    image: e.input,
                    column_grid: e.output,
                    term_grid: e.kernel,
                    divisor: [1, 1],
                    origin: conv.padding.map(|p| -(p as i32)),
                    column_step: conv.stride.map(|s| s as i32),
                    term_step: conv.dilation.map(|d| d as i32),
                },
                c: cx.row_window(y, e.batch, &pictures)?.skip(part.first_output(&e) * e.y_picture()).strided(
                    e.o * e.y_picture(),
                    e.y_picture(),
                    e.groups * e.o * e.y_picture(),
                    e.y_picture(),
                ),
                accumulate: false,
                scales: [1.0; 2],
                epilogue: epilogue.map(|epilogue| epilogue.of_rows(e.o).skip(part.first_output(&e))),
            };
            product.lower(cx)?;
        }
    }
    Ok(())
}

impl WgpuOp for Conv2dBackwardInput {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let (dy, w, dx) = (&inputs[0], &inputs[1], &outputs[0]);
        let e = Extents::new(&self.conv, dx, w, dy);
        let taps = e.kernel[0] * e.kernel[1];
        for pictures in cx.rows(e.batch, &[dx, dy])? {
            for part in e.weight_parts(cx, w)? {
                let product = Product {
                    groups: part.groups,
                    m: e.c,
                    n: pictures.len() * e.x_picture(),
                    k: part.outputs.len() * taps,
                    a: part.window(cx, w, &e)?.strided(e.o * e.w_output(), taps, e.w_output(), taps),
                    pictures: Pictures::Columns,
                    b: Patches {
                        window: cx.row_window(dy, e.batch, &pictures)?.skip(part.first_output(&e) * e.y_picture()),
                        group: e.o * e.y_picture(),
                        column: e.groups * e.o * e.y_picture(),
                        term: e.y_picture(),
                        image: e.output,
                        column_grid: e.input,
                        term_grid: e.kernel,
                        divisor: self.conv.stride,
                        origin: self.conv.padding.map(|p| p as i32),
                        column_step: [1, 1],
                        term_step: self.conv.dilation.map(|d| -(d as i32)),
                    },
                    c: cx.row_window(dx, e.batch, &pictures)?.skip(part.group * e.c * e.x_picture()).strided(
                        e.c * e.x_picture(),
                        e.x_picture(),
                        e.groups * e.c * e.x_picture(),
                        e.x_picture(),
                    ),
                    // The sum over output channels goes on where the weight was cut.
                    accumulate: part.outputs.start > 0,
                    scales: [1.0, cx.capability.precision.loss_scale()],
                    epilogue: None,
                };
                product.lower(cx)?;
            }
        }
        Ok(())
    }
}

impl WgpuOp for Conv2dBackwardWeight {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let (x, dy, dw) = (&inputs[0], &inputs[1], &outputs[0]);
        let e = Extents::new(&self.conv, x, dw, dy);
        for part in e.weight_parts(cx, dw)? {
            for pictures in cx.rows(e.batch, &[x, dy])? {
                let product = Product {
                    groups: part.groups,
                    m: part.outputs.len(),
                    n: e.w_output(),
                    k: pictures.len() * e.y_picture(),
                    a: cx.row_window(dy, e.batch, &pictures)?.skip(part.first_output(&e) * e.y_picture()).strided(
                        e.o * e.y_picture(),
                        e.y_picture(),
                        e.groups * e.o * e.y_picture(),
                        e.y_picture(),
                    ),
                    pictures: Pictures::Terms,
                    b: Patches {
                        window: cx.row_window(x, e.batch, &pictures)?.skip(part.group * e.c * e.x_picture()),
                        group: e.c * e.x_picture(),
                        column: e.x_picture(),
                        term: e.groups * e.c * e.x_picture(),
                        image: e.input,
                        column_grid: e.kernel,
                        term_grid: e.output,
                        divisor: [1, 1],
                        origin: self.conv.padding.map(|p| -(p as i32)),
                        column_step: self.conv.dilation.map(|d| d as i32),
                        term_step: self.conv.stride.map(|s| s as i32),
                    },
                    c: part.window(cx, dw, &e)?.strided(e.o * e.w_output(), e.w_output(), 0, e.w_output()),
                    accumulate: pictures.start > 0,
                    scales: [cx.capability.precision.loss_scale(), 1.0],
                    epilogue: None,
                };
                product.lower(cx)?;
            }
        }
        Ok(())
    }
}

/// Extents of a convolution; channels are counted per group.
struct Extents {
    batch: usize,
    groups: usize,
    /// Input channels of a group.
    c: usize,
    /// Output channels of a group.
    o: usize,
    input: [usize; 2],
    output: [usize; 2],
    kernel: [usize; 2],
}

impl Extents {
    fn new(conv: &Conv2d, x: &ValueRef, w: &ValueRef, y: &ValueRef) -> Self {
        let (x, w, y) = (&x.ty.shape, &w.ty.shape, &y.ty.shape);
        Extents {
            batch: x[0],
            groups: conv.groups,
            c: w[1],
            o: w[0] / conv.groups,
            input: [x[2], x[3]],
            output: [y[2], y[3]],
            kernel: [w[2], w[3]],
        }
    }

    /// Elements of one channel of an input picture.
    fn x_picture(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Elements of one channel of an output picture.
    fn y_picture(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Weights of one output channel.
    fn w_output(&self) -> usize {
        self.c * self.kernel[0] * self.kernel[1]
    }

    /// Cuts the weight into parts that can be bound: the whole where it fits, else ranges of one group's output channels.
    fn weight_parts(&self, cx: &Lowering, w: &ValueRef) -> Result<Vec<WeightPart>> {
        let ranges = cx.rows(self.groups * self.o, &[w])?;
        if ranges.len() == 1 {
            return Ok(vec![WeightPart { group: 0, groups: self.groups, outputs: 0..self.o }]);
        }
        let mut parts = Vec::new();
        for range in ranges {
            let mut start = range.start;
            while start < range.end {
                let group = start / self.o;
                let end = range.end.min((group + 1) * self.o);
                parts.push(WeightPart { group, groups: 1, outputs: start - group * self.o..end - group * self.o });
                start = end;
            }
        }
        Ok(parts)
    }
}

/// Some groups with some of the output channels of each.
struct WeightPart {
    group: usize,
    groups: usize,
    /// Within a group.
    outputs: Range<usize>,
}

impl WeightPart {
    /// Place of the first output channel among those of all groups.
    fn first_output(&self, e: &Extents) -> usize {
        self.group * e.o + self.outputs.start
    }

    fn window(&self, cx: &Lowering, w: &ValueRef, e: &Extents) -> Result<Window> {
        let first = self.first_output(e);
        cx.row_window(w, e.groups * e.o, &(first..first + self.groups * self.outputs.len()))
    }
}

/// Element (row, i) of group g is at `g*group + row*row + (i / inner)*outer + i % inner` of the window.
pub(super) struct Strided {
    window: Window,
    group: usize,
    row: usize,
    outer: usize,
    inner: usize,
}

/// Operand B, see `shaders/conv2d_product.wgsl`.
pub(super) struct Patches {
    pub window: Window,
    pub group: usize,
    pub column: usize,
    pub term: usize,
    pub image: [usize; 2],
    pub column_grid: [usize; 2],
    pub term_grid: [usize; 2],
    pub divisor: [usize; 2],
    pub origin: [i32; 2],
    pub column_step: [i32; 2],
    pub term_step: [i32; 2],
}

impl Window {
    pub(super) fn strided(self, group: usize, row: usize, outer: usize, inner: usize) -> Strided {
        Strided { window: self, group, row, outer, inner }
    }
}

/// Where pictures lie in B, see the table in `shaders/conv2d_product.wgsl`.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Pictures {
    /// Their places are the columns, and their channels terms.
    Columns,
    /// Their places are the terms, and their channels columns.
    Terms,
}

/// For each group, C[m, n] (+)= sum over k of A[m, k] * B[k, n].
pub(super) struct Product {
    pub groups: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Strided,
    pub pictures: Pictures,
    pub b: Patches,
    pub c: Strided,
    pub accumulate: bool,
    /// What A and B are multiplied by where they are held in 16-bit floats.
    pub scales: [f32; 2],
    /// Of the sums, when they are whole.
    pub epilogue: Option<Epilogue>,
}

/// Terms that one invocation sums at most: 5 loop iterations for 16 of them, and llvmpipe (Mesa 22.3) silently ends an
/// invocation's loops after 65,535 iterations in all.
const MAX_TERMS: usize = 98_304;

/// The default first.
const TILES: [Tile; 8] = [
    Tile { kernel: &conv2d::TILE_8_8_8, f16: &conv2d_f16::TILE_8_8_8, rows: 64, columns: 64 },
    Tile { kernel: &conv2d::TILE_8_4_4, f16: &conv2d_f16::TILE_8_4_4, rows: 32, columns: 32 },
    Tile { kernel: &conv2d::TILE_8_4_8, f16: &conv2d_f16::TILE_8_4_8, rows: 32, columns: 64 },
    Tile { kernel: &conv2d::TILE_8_8_4, f16: &conv2d_f16::TILE_8_8_4, rows: 64, columns: 32 },
    Tile { kernel: &conv2d::TILE_16_4_4, f16: &conv2d_f16::TILE_16_4_4, rows: 64, columns: 64 },
    Tile { kernel: &conv2d::TILE_16_4_8, f16: &conv2d_f16::TILE_16_4_8, rows: 64, columns: 128 },
    Tile { kernel: &conv2d::TILE_16_8_4, f16: &conv2d_f16::TILE_16_8_4, rows: 128, columns: 64 },
    Tile { kernel: &conv2d::TILE_16_8_8, f16: &conv2d_f16::TILE_16_8_8, rows: 128, columns: 128 },
];

/// Numbers of the tiles that may fetch ahead, and their names then: those of which few invocations run at once, each with much to sum meanwhile.
const AHEAD: [(usize, &str); 2] = [(0, "tile_8_8_8_ahead"), (7, "tile_16_8_8_ahead")];

/// Terms of a product, and how their sum is cut.
struct Piece {
    k: Range<usize>,
    part: usize,
    parts: usize,
    c_part: usize,
    accumulate: bool,
    epilogue: Option<Epilogue>,
}

impl Product {
    fn lower(&self, cx: &mut Lowering) -> Result<()> {
        // Whether a step's terms are fetched while the step before is summed.
        let way = |tile: &'static Tile, ahead: bool| Way { tile, constant: Some(("AHEAD", ahead.into())) };
        let tiles = TILES.iter().map(|tile| (tile.kernel.entry, way(tile, false)));
        let ahead = AHEAD.into_iter().map(|(number, name)| (name, way(&TILES[number], true)));
        let matrices = cx.capability.matrices.into_iter().flat_map(Matrices::ways);
        let ways = tiles.chain(ahead).chain(matrices).map(|(name, way)| (name, Some(way)));
        let texels = cx.capability.texels().then_some(("texels", None));
        let chosen = cx.choose(&texels.into_iter().chain(ways).collect::<Vec<_>>());
        if chosen.is_none() && self.lower_texels(cx)? {
            return Ok(());
        }
        self.lower_tiles(cx, chosen.unwrap_or(way(&TILES[0], false)))
    }

    pub(super) fn lower_tiles(&self, cx: &mut Lowering, way: Way) -> Result<()> {
        let tile = way.tile;
        let tiles = self.n.div_ceil(tile.columns) * self.m.div_ceil(tile.rows) * self.groups;
        let elements = self.groups * self.m * self.n;
        for first in (0..self.k).step_by(MAX_TERMS) {
            let terms = MAX_TERMS.min(self.k - first);
            let accumulate = self.accumulate || first > 0;
            let k = first..first + terms;
            let part = if self.c_is_dense() { part(cx, tiles, terms, elements) } else { terms };
            let parts = terms.div_ceil(part);
            let epilogue = self.epilogue.filter(|_| first + terms == self.k);
            let piece = Piece { k, part, parts, c_part: elements, accumulate, epilogue };
            if parts == 1 {
                self.dispatch_tiles(cx, way, &piece, &self.c)?;
                continue;
            }
            let partial = cx.scratch(elements * parts);
            let partial = cx.whole(&partial)?;
            let strided = partial.strided(self.c.group, self.c.row, self.c.outer, self.c.inner);
            let piece = Piece { accumulate: false, epilogue: None, ..piece };
            self.dispatch_tiles(cx, way, &piece, &strided)?;
            let (rows, columns) = (self.m, self.n);
            Parts { elements, parts, rows, columns, accumulate, epilogue }.sum(cx, partial, self.c.window)?;
        }
        Ok(())
    }

    /// Whether C is all elements from its first on, in the order [group, m, n].
    fn c_is_dense(&self) -> bool {
        let n_is_inner = self.n <= self.c.inner;
        n_is_inner && self.c.row == self.n && (self.groups == 1 || self.c.group == self.m * self.n)
    }

    /// Dispatches the tile's kernel for all of C, as often as the device's grids ask for.
    fn dispatch_tiles(&self, cx: &mut Lowering, Way { tile, constant }: Way, piece: &Piece, c: &Strided) -> Result<()> {
        let (columns, most) = (self.n.div_ceil(tile.columns), cx.capability.grid_side);
        for first in (0..columns).step_by(most) {
            let grid = [most.min(columns - first), self.m.div_ceil(tile.rows), self.groups * piece.parts];
            let dispatch = cx.dispatch(tile.kernel(&cx.capability));
            let dispatch =
                constant.into_iter().fold(dispatch, |dispatch, (name, value)| dispatch.constant(name, value));
            self.set(dispatch, first * tile.columns, piece, c).grid(grid)?;
        }
        Ok(())
    }

    fn set<'a>(&self, builder: Builder<'a>, n_first: usize, piece: &Piece, c: &Strided) -> Builder<'a> {
        let (a, b, [a_scale, b_scale]) = (&self.a, &self.b, self.scales);
        let pair = |extents: [usize; 2]| extents.map(|n| n as u32);
        builder
            .bind("a", a.window)
            .bind("b", b.window)
            .bind("c", c.window)
            .epilogue(piece.epilogue, a.window)
            .set("m", self.m as u32)
            .set("n", self.n as u32)
            .set("n_first", n_first as u32)
            .set("k_first", piece.k.start as u32)
            .set("k_end", piece.k.end as u32)
            .set("a_first", a.window.first)
            .set("a_group", a.group as u32)
            .set("a_row", a.row as u32)
            .set("a_outer", a.outer as u32)
            .set("a_inner", a.inner as u32)
            .set("a_scale", a_scale)
            .set("b_scale", b_scale)
            .set("c_first", c.window.first)
            .set("c_group", c.group as u32)
            .set("c_row", c.row as u32)
            .set("c_outer", c.outer as u32)
            .set("c_inner", c.inner as u32)
            .set("accumulate", piece.accumulate as u32)
            .set("part", piece.part as u32)
            .set("parts", piece.parts as u32)
            .set("c_part", piece.c_part as u32)
            .set("b_first", b.window.first)
            .set("b_group", b.group as u32)
            .set("b_column", b.column as u32)
            .set("b_term", b.term as u32)
            .set("image", pair(b.image))
            .set("column_grid", pair(b.column_grid))
            .set("term_grid", pair(b.term_grid))
            .set("divisor", pair(b.divisor))
            .set("origin", b.origin)
            .set("column_step", b.column_step)
            .set("term_step", b.term_step)
    }
}
