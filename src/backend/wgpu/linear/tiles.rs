//! Fully connected layers by tiles, see `shaders/linear_tile.wgsl`, or by matrices, as convolutions of one place.

use super::super::lowering::{Lowering, ValueRef, Window};
use super::super::shaders::{Kernel, linear_tile, linear_tile_f16};

use super::super::biased::Epilogue;
use super::super::conv2d;
use super::super::matrices::Matrices;
use super::super::tile::{Parts, Tile, Way, part};
use crate::error::Result;

/// From a batch of so many rows on a tile is the default: below, most of one would be empty.
const BATCH: usize = 32;

const TILES: [Tile; 4] = [
    Tile { kernel: &linear_tile::TILE_8_8, f16: &linear_tile_f16::TILE_8_8, rows: 64, columns: 64 },
    Tile { kernel: &linear_tile::TILE_8_4, f16: &linear_tile_f16::TILE_8_4, rows: 32, columns: 32 },
    Tile { kernel: &linear_tile::TILE_16_4, f16: &linear_tile_f16::TILE_16_4, rows: 64, columns: 64 },
    Tile { kernel: &linear_tile::TILE_16_8, f16: &linear_tile_f16::TILE_16_8, rows: 128, columns: 128 },
];

/// Terms of one dispatch, at most: 13 loop iterations for 16 of them.
const MAX_TERMS: usize = 65_536;

/// The tile of a layer with a batch of `batch` rows; none where `kernel`, which reads the weight once for a few rows, is
/// better.
pub(super) fn choose(cx: &mut Lowering, batch: usize, kernel: &Kernel) -> Option<Way> {
    let mut candidates = vec![(kernel.entry, None)];
    let tiles = TILES.iter().map(|tile| (tile.kernel.entry, Some(Way { tile, constant: None })));
    // On a processor barriers are dear.
    let at = if batch < BATCH || cx.capability.software { 1 } else { 0 };
    candidates.splice(at..at, tiles);
    let matrices = cx.capability.matrices.into_iter().flat_map(Matrices::ways);
    candidates.extend(matrices.map(|(name, way)| (name, Some(way))));
    cx.choose(&candidates)
}

/// An operand: element (line, term) is at `line * line_step + term * term_step` of the window.
struct Operand {
    window: Window,
    line_step: usize,
    term_step: usize,
}

/// C[m, n] (+)= sum over k of A[m, k] * B[k, n].
struct Product {
    m: usize,
    n: usize,
    k: usize,
    a: Operand,
    b: Operand,
    c: Window,
    c_row: usize,
    accumulate: bool,
    /// What A is multiplied by where it is held in 16-bit floats.
    a_scale: f32,
    epilogue: Option<Epilogue>,
}

impl Product {
    /// The same as a convolution of one place.
    fn convolution(&self) -> conv2d::Product {
        let (one, b) = ([1; 2], &self.b);
        conv2d::Product {
            groups: 1,
            m: self.m,
            n: self.n,
            k: self.k,
            a: self.a.window.strided(0, self.a.line_step, self.a.term_step, 1),
            pictures: conv2d::Pictures::Columns,
            b: conv2d::Patches {
                window: b.window,
                group: 0,
                column: b.line_step,
                term: b.term_step,
                image: one,
                column_grid: one,
                term_grid: one,
                divisor: one,
                origin: [0; 2],
                column_step: [1; 2],
                term_step: [1; 2],
            },
            c: self.c.strided(0, self.c_row, 0, self.n),
            accumulate: self.accumulate,
            scales: [self.a_scale, 1.0],
            epilogue: self.epilogue,
        }
    }

    fn run(&self, cx: &mut Lowering, way: Way) -> Result<()> {
        let Way { tile, constant: None } = way else {
            return self.convolution().lower_tiles(cx, way); // whose kernels those of matrices are
        };
        let grid = [self.n.div_ceil(tile.columns), self.m.div_ceil(tile.rows)];
        let elements = self.m * self.n;
        for first in (0..self.k).step_by(MAX_TERMS) {
            let terms = MAX_TERMS.min(self.k - first);
            let accumulate = self.accumulate || first > 0;
            // Partial results lie side by side; where C has more columns, they would not.
            let part = if self.c_row == self.n { part(cx, grid[0] * grid[1], terms, elements) } else { terms };
            let parts = terms.div_ceil(part);
            let scratch = (parts > 1).then(|| cx.scratch(elements * parts));
            let epilogue = self.epilogue.filter(|_| first + terms == self.k);
            let partial = scratch.map(|scratch| cx.whole(&scratch)).transpose()?;
            let target = partial.unwrap_or(self.c);
            let skip = |operand: &Operand| operand.window.first + (first * operand.term_step) as u32;
            cx.dispatch(tile.kernel(&cx.capability))
                .bind("a", self.a.window)
                .bind("b", self.b.window)
                .bind("c", target)
                .epilogue(epilogue.filter(|_| parts == 1), self.a.window)
                .set("m", self.m as u32)
                .set("n", self.n as u32)
                .set("k", terms as u32)
                .set("part", part as u32)
                .set("c_part", elements as u32)
                .set("a_first", skip(&self.a))
                .set("a_line", self.a.line_step as u32)
                .set("a_term", self.a.term_step as u32)
                .set("b_first", skip(&self.b))
                .set("b_line", self.b.line_step as u32)
                .set("b_term", self.b.term_step as u32)
                .set("a_scale", self.a_scale)
                .set("b_scale", 1f32)
                .set("c_first", target.first)
                .set("c_row", self.c_row as u32)
                .set("accumulate", (accumulate && parts == 1) as u32)
                .grid([grid[0], grid[1], parts])?;
            if let Some(partial) = partial {
                let (rows, columns) = (self.m, self.n);
                Parts { elements, parts, rows, columns, accumulate, epilogue }.sum(cx, partial, self.c)?;
            }
        }
        Ok(())
    }
}

/// y[n, o] = sum over i of x[n, i] * w[o, i]
pub(super) fn forward(
    cx: &mut Lowering,
    way: Way,
    [x, w, y]: [&ValueRef; 3],
    epilogue: Option<Epilogue>,
) -> Result<()> {
    let (batch, features, outputs) = (x.ty.shape[0], x.ty.shape[1], w.ty.shape[0]);
    for rows in cx.rows(batch, &[x, y])? {
        for range in cx.rows(outputs, &[w])? {
            let product = Product {
                m: rows.len(),
                n: range.len(),
                k: features,
                a: Operand { window: cx.row_window(x, batch, &rows)?, line_step: features, term_step: 1 },
                b: Operand { window: cx.row_window(w, outputs, &range)?, line_step: features, term_step: 1 },
                c: cx.row_window(y, batch, &rows)?.skip(range.start),
                c_row: outputs,
                accumulate: false,
                a_scale: 1.0,
                epilogue: epilogue.map(|epilogue| epilogue.of_columns().skip(range.start)),
            };
            product.run(cx, way)?;
        }
    }
    Ok(())
}

/// dx[n, i] = sum over o of dy[n, o] * w[o, i]
pub(super) fn backward_input(cx: &mut Lowering, way: Way, dy: &ValueRef, w: &ValueRef, dx: &ValueRef) -> Result<()> {
    let (batch, features, outputs) = (dx.ty.shape[0], dx.ty.shape[1], w.ty.shape[0]);
    for rows in cx.rows(batch, &[dx, dy])? {
        for range in cx.rows(outputs, &[w])? {
            let dy = cx.row_window(dy, batch, &rows)?.skip(range.start);
            let product = Product {
                m: rows.len(),
                n: features,
                k: range.len(),
                a: Operand { window: dy, line_step: outputs, term_step: 1 },
                b: Operand { window: cx.row_window(w, outputs, &range)?, line_step: 1, term_step: features },
                c: cx.row_window(dx, batch, &rows)?,
                c_row: features,
                accumulate: range.start > 0,
                a_scale: cx.capability.precision.loss_scale(),
                epilogue: None,
            };
            product.run(cx, way)?;
        }
    }
    Ok(())
}

/// dw[o, i] = sum over n of dy[n, o] * x[n, i]
pub(super) fn backward_weight(cx: &mut Lowering, way: Way, x: &ValueRef, dy: &ValueRef, dw: &ValueRef) -> Result<()> {
    let (batch, features, outputs) = (x.ty.shape[0], x.ty.shape[1], dw.ty.shape[0]);
    for range in cx.rows(outputs, &[dw])? {
        for rows in cx.rows(batch, &[x, dy])? {
            let dy = cx.row_window(dy, batch, &rows)?.skip(range.start);
            let product = Product {
                m: range.len(),
                n: features,
                k: rows.len(),
                a: Operand { window: dy, line_step: 1, term_step: outputs },
                b: Operand { window: cx.row_window(x, batch, &rows)?, line_step: 1, term_step: features },
                c: cx.row_window(dw, outputs, &range)?,
                c_row: features,
                accumulate: rows.start > 0,
                a_scale: cx.capability.precision.loss_scale(),
                epilogue: None,
            };
            product.run(cx, way)?;
        }
    }
    Ok(())
}
