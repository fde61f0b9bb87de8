//! Fully connected layers as products of texels. The weight, by far the largest operand, is copied as it is, piece by piece.

use std::ops::Range;

use super::super::biased::Epilogue;
use super::super::lowering::{Lowering, MAX_TEXELS, TEXTURE_WIDTH, ValueRef, Window};
use super::super::shaders::texel_update::{UPDATE_ADAM, UPDATE_SGD};
use super::super::texels::{Form, Grid, MAX_TERMS, Pack, Product, ROWS, Target, Texels, piece};
use crate::error::Result;
use crate::ops::UpdateRule;

/// Quads of inputs and outputs whose weights a workgroup of the update steps.
const UPDATE_QUADS: usize = 32;
const UPDATE_OUTPUTS: usize = 4;

/// A layer on texels.
pub(in super::super) struct Layer {
    batch: usize,
    features: usize,
    outputs: usize,
}

impl Layer {
    /// None where the device has better kernels, or the layer is too large for these.
    pub fn new(cx: &Lowering, x: &ValueRef, w: &ValueRef) -> Option<Self> {
        let layer = Layer { batch: x.ty.shape[0], features: x.ty.shape[1], outputs: w.ty.shape[0] };
        // Texels of dy, four rows or four outputs in each.
        let most = layer.batch.next_multiple_of(4) * layer.outputs.next_multiple_of(4) / 4;
        // Sixteen rows of the weight and its optimizer's moments.
        let fits = 4 * ROWS * layer.quads() <= MAX_TEXELS && most <= MAX_TEXELS;
        (cx.capability.texels() && fits).then_some(layer)
    }

    /// Texels of a row of x or w.
    fn quads(&self) -> usize {
        self.features.div_ceil(4)
    }

    /// Rows of the batch that are worked on at once.
    fn batches(&self, cx: &Lowering, values: &[&ValueRef]) -> Result<Vec<Range<usize>>> {
        Ok(pieces(cx.rows(self.batch, values)?, MAX_TEXELS / self.quads()))
    }

    /// Rows of the weight, and of as many values like it as there are `copies`, that are worked on at once.
    fn outputs(&self, cx: &Lowering, values: &[&ValueRef], copies: usize) -> Result<Vec<Range<usize>>> {
        Ok(pieces(cx.rows(self.outputs, values)?, piece(copies * self.quads() * ROWS) * ROWS))
    }

    /// Rows of a matrix of features as texels.
    fn rows<'a>(
        &self,
        cx: &mut Lowering,
        texels: Window,
        value: &'a ValueRef,
        range: &Range<usize>,
    ) -> Result<Texels<'a>> {
        let elements = range.start * self.features..range.end * self.features;
        if self.features.is_multiple_of(4) {
            return Ok(Texels::Copied(texels, value, elements));
        }
        let window = cx.window(value, elements)?;
        Pack::matrix(range.len(), self.features, self.features, 1).run(cx, window, texels)?;
        Ok(Texels::Ready(texels))
    }

    /// y[n, o] = sum over i of x[n, i] * w[o, i]
    pub fn forward(&self, cx: &mut Lowering, [x, w, y]: [&ValueRef; 3], epilogue: Option<Epilogue>) -> Result<()> {
        let (batches, outputs) = (self.batches(cx, &[x, y])?, self.outputs(cx, &[w], 1)?);
        let (x_texture, w_texture) = (self.texture(cx, &batches), self.texture(cx, &outputs));
        for batch in &batches {
            let mut x = self.rows(cx, x_texture, x, batch)?;
            let y = cx.row_window(y, self.batch, batch)?;
            for range in &outputs {
                let mut w = self.rows(cx, w_texture, w, range)?;
                let target = Target::matrix(y, self.outputs, Form::Terms);
                let product = Product {
                    form: Form::Terms,
                    rows: batch.len(),
                    columns: range.len(),
                    terms: self.quads(),
                    a_row: self.quads(),
                    column_grid: Grid::line(self.quads()),
                    term_grid: Grid::line(1),
                    c: Target { window: y.skip(range.start), ..target },
                    epilogue: epilogue.map(|epilogue| epilogue.of_columns().skip(range.start)),
                    ..plain(y)
                };
                product.run(cx, &mut x, &mut w)?;
            }
        }
        Ok(())
    }

    /// dx[n, i] = sum over o of dy[n, o] * w[o, i]
    pub fn backward_input(&self, cx: &mut Lowering, dy: &ValueRef, w: &ValueRef, dx: &ValueRef) -> Result<()> {
        let (batches, outputs) = (self.batches(cx, &[dx, dy])?, self.outputs(cx, &[w], 1)?);
        let dy_texture = cx.texels(longest(&batches).div_ceil(4) * longest(&outputs));
        let w_texture = self.texture(cx, &outputs);
        for batch in &batches {
            let (dy, dx) = (cx.row_window(dy, self.batch, batch)?, cx.row_window(dx, self.batch, batch)?);
            for range in &outputs {
                let pack = Pack::matrix(range.len(), batch.len(), 1, self.outputs);
                pack.run(cx, dy.skip(range.start), dy_texture)?;
                let mut w = self.rows(cx, w_texture, w, range)?;
                let target = Target::matrix(dx, self.features, Form::Lines);
                let product = Product {
                    rows: batch.len(),
                    columns: self.quads(),
                    terms: range.len(),
                    a_row: 1,
                    a_steps: Grid::line(pack.line_texels()).steps,
                    column_grid: Grid::line(1),
                    term_grid: Grid::line(self.quads()),
                    c: Target { accumulate: range.start > 0, ..target },
                    ..plain(dx)
                };
                product.run(cx, &mut Texels::Ready(dy_texture), &mut w)?;
            }
        }
        Ok(())
    }

    /// dw[o, i] = sum over n of dy[n, o] * x[n, i]
    pub fn backward_weight(&self, cx: &mut Lowering, x: &ValueRef, dy: &ValueRef, dw: &ValueRef) -> Result<()> {
        let batches = self.batches(cx, &[x, dy])?;
        let x_texture = self.texture(cx, &batches);
        let dy_texture = cx.texels(longest(&batches) * self.outputs.div_ceil(4));
        for batch in &batches {
            let mut x = self.rows(cx, x_texture, x, batch)?;
            let dy = cx.row_window(dy, self.batch, batch)?;
            for range in cx.rows(self.outputs, &[dw])? {
                let pack = Pack::matrix(batch.len(), range.len(), self.outputs, 1);
                pack.run(cx, dy.skip(range.start), dy_texture)?;
                let dw = cx.row_window(dw, self.outputs, &range)?;
                let target = Target::matrix(dw, self.features, Form::Lines);
                let product = Product {
                    rows: range.len(),
                    columns: self.quads(),
                    terms: batch.len(),
                    a_row: 1,
                    a_steps: Grid::line(pack.line_texels()).steps,
                    column_grid: Grid::line(1),
                    term_grid: Grid::line(self.quads()),
                    c: Target { accumulate: batch.start > 0, ..target },
                    ..plain(dw)
                };
                product.run(cx, &mut Texels::Ready(dy_texture), &mut x)?;
            }
        }
        Ok(())
    }

    /// Whether [`Layer::update`] can do it: rows are whole texels, and the batch is worked on at once.
    pub fn updates(&self, cx: &Lowering, x: &ValueRef, dy: &ValueRef) -> Result<bool> {
        let at_once = self.batch <= MAX_TERMS && self.batches(cx, &[x, dy])?.len() == 1;
        Ok(self.features.is_multiple_of(4) && at_once)
    }

    /// The gradient of the weight, and at once the optimizer's step: `states` are the weight and the optimizer's moments.
    pub fn update(
        &self,
        cx: &mut Lowering,
        rule: &UpdateRule,
        [x, dy, schedule]: [&ValueRef; 3],
        states: &[ValueRef],
    ) -> Result<()> {
        let outputs = self.outputs(cx, &[&states[0]], states.len())?;
        let x_texture = cx.texels(self.batch * self.quads());
        let dy_texture = cx.texels(self.batch * longest(&outputs).div_ceil(4));
        let state_rows = (longest(&outputs) * self.quads()).div_ceil(TEXTURE_WIDTH as usize);
        let old = cx.texels(states.len() * state_rows * TEXTURE_WIDTH as usize);
        let mut x = self.rows(cx, x_texture, x, &(0..self.batch))?;
        let (dy, schedule) = (cx.whole(dy)?, cx.whole(schedule)?);
        for range in &outputs {
            let pack = Pack::matrix(self.batch, range.len(), self.outputs, 1);
            pack.run(cx, dy.skip(range.start), dy_texture)?;
            let windows = states.iter().map(|state| cx.row_window(state, self.outputs, range));
            let windows = windows.collect::<Result<Vec<_>>>()?;
            let (dispatch, names) = match rule {
                UpdateRule::Adam(adam) => (adam.set(cx.dispatch(&UPDATE_ADAM)), &["w", "m", "v"][..]),
                UpdateRule::Sgd(sgd) => (sgd.set(cx.dispatch(&UPDATE_SGD)), &["w", "v"][..]),
            };
            let mut dispatch = x.bind(dispatch.bind("a", dy_texture), "b").bind("old", old);
            for (i, name) in names.iter().enumerate() {
                let elements = range.start * self.features..range.end * self.features;
                dispatch = dispatch.bind(name, windows[i]).copy(old, i * state_rows, &states[i], elements);
            }
            dispatch
                .bind("schedule", schedule)
                .set("rows", self.batch as u32)
                .set("outputs", range.len() as u32)
                .set("inputs", self.quads() as u32)
                .set("w_first", windows[0].first / 4)
                .set("old_step", state_rows as u32 * TEXTURE_WIDTH)
                .grid([self.quads().div_ceil(UPDATE_QUADS), range.len().div_ceil(UPDATE_OUTPUTS), 1])?;
        }
        Ok(())
    }

    /// A texture for any of these ranges of rows.
    fn texture(&self, cx: &mut Lowering, ranges: &[Range<usize>]) -> Window {
        cx.texels(longest(ranges) * self.quads())
    }
}

/// A product of no groups into `c`; what it computes is left to say.
fn plain(c: Window) -> Product {
    Product {
        form: Form::Lines,
        groups: 1,
        rows: 0,
        columns: 0,
        terms: 0,
        a_group: 0,
        a_row: 0,
        a_steps: [0; 3],
        b_first: 0,
        b_group: 0,
        column_grid: Grid::line(1),
        term_grid: Grid::line(1),
        c: Target::matrix(c, 0, Form::Lines),
        epilogue: None,
    }
}

/// Cuts ranges into pieces of at most `most`.
fn pieces(ranges: Vec<Range<usize>>, most: usize) -> Vec<Range<usize>> {
    let cut = |range: Range<usize>| range.clone().step_by(most).map(move |first| first..range.end.min(first + most));
    ranges.into_iter().flat_map(cut).collect()
}

/// The most rows of a piece.
fn longest(pieces: &[Range<usize>]) -> usize {
    pieces.iter().map(Range::len).max().unwrap_or(1)
}
