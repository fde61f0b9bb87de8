//! Matrix products of texels, see `shaders/texel_product.wgsl`: the way of convolutions and fully connected layers on Vulkan
//! that is run by the processor. An op copies its operands into textures ([`Pack`], [`Texels::Copied`]) and describes the
//! product by strides ([`Product`]).

use std::ops::Range;

use super::biased::Epilogue;
use super::dispatch::Builder;
use super::lowering::{Lowering, MAX_ITERATIONS, MAX_TEXELS, ValueRef, Window};
use super::shaders::{texel_pack, texel_product};
use crate::error::Result;

/// Rows of C that a workgroup makes.
pub(super) const ROWS: usize = 16;

/// Columns of C that a workgroup makes.
const COLUMNS: usize = 32;

/// Iterations of the loop over terms, at most: those that store come on top.
pub(super) const MAX_TERMS: usize = MAX_ITERATIONS - 4 * ROWS;

/// Bytes of an operand's texels where they can be made piece by piece, so that they are still in a cache when they are read.
const PIECE_BYTES: usize = 4 << 20;

/// How many of things that take `texels` each are copied at once, at least one.
pub(super) fn piece(texels: usize) -> usize {
    (PIECE_BYTES / 16 / texels).max(1)
}

/// A copy of a value in texels, see `shaders/texel_pack.wgsl`. Steps are elements of the value.
pub(super) struct Pack {
    pub groups: usize,
    pub lines: usize,
    /// Of a group.
    pub channels: usize,
    /// Of a picture of texels.
    pub extent: [usize; 2],
    /// Of a picture of the value.
    pub image: [usize; 2],
    /// The border before the picture; below 0 where its first rows are left out.
    pub before: [i32; 2],
    /// From one row and column of the picture to the next.
    pub step: [usize; 2],
    pub group_step: usize,
    pub line_step: usize,
    pub channel_step: usize,
}

impl Pack {
    /// Pictures as they are.
    pub fn pictures(lines: usize, channels: usize, image: [usize; 2]) -> Self {
        let plane = image[0] * image[1];
        let (line_step, channel_step) = (channels * plane, plane);
        let (before, step) = ([0; 2], [1; 2]);
        Pack { groups: 1, lines, channels, extent: image, image, before, step, group_step: 0, line_step, channel_step }
    }

    /// A matrix whose element (line, channel) is at `line * line_step + channel * channel_step`.
    pub fn matrix(lines: usize, channels: usize, line_step: usize, channel_step: usize) -> Self {
        Pack { line_step, channel_step, ..Self::pictures(lines, channels, [1, 1]) }
    }

    /// Texels of one quad of channels.
    pub fn plane(&self) -> usize {
        self.extent[0] * self.extent[1]
    }

    /// Texels of a line.
    pub fn line_texels(&self) -> usize {
        self.channels.div_ceil(4) * self.plane()
    }

    /// Texels of a group.
    pub fn group_texels(&self) -> usize {
        self.lines * self.line_texels()
    }

    /// Whether a texture can hold it.
    pub fn fits(&self) -> bool {
        self.groups * self.group_texels() <= MAX_TEXELS
    }

    /// A texture for it.
    pub fn texture(&self, cx: &mut Lowering) -> Window {
        cx.texels(self.groups * self.group_texels())
    }

    /// Makes the copy of the value that begins at `source`'s first element.
    pub fn run(&self, cx: &mut Lowering, source: Window, texels: Window) -> Result<()> {
        let pair = |extents: [usize; 2]| extents.map(|n| n as u32);
        let count = self.groups * self.group_texels();
        cx.dispatch(&texel_pack::PACK)
            .bind("source", source)
            .bind("texels", texels)
            .set("texels", count as u32)
            .set("lines", self.lines as u32)
            .set("quads", self.channels.div_ceil(4) as u32)
            .set("channels", self.channels as u32)
            .set("extent", pair(self.extent))
            .set("image", pair(self.image))
            .set("before", self.before)
            .set("step", pair(self.step))
            .set("first", source.first)
            .set("group_step", self.group_step as u32)
            .set("line_step", self.line_step as u32)
            .set("channel_step", self.channel_step as u32)
            .threads(count)
    }
}

/// An operand.
pub(super) enum Texels<'a> {
    /// In a texture.
    Ready(Window),
    /// To be copied there as they are, from these elements of a value.
    Copied(Window, &'a ValueRef, Range<usize>),
}

impl Texels<'_> {
    /// Binds the texture; what is to be copied is copied before this dispatch and ready for the next ones.
    pub fn bind<'b>(&mut self, builder: Builder<'b>, name: &str) -> Builder<'b> {
        let (texels, builder) = match self {
            Texels::Ready(texels) => (*texels, builder),
            Texels::Copied(texels, value, elements) => (*texels, builder.copy(*texels, 0, value, elements.clone())),
        };
        *self = Texels::Ready(texels);
        builder.bind(name, texels)
    }
}

/// What a texel of the operands holds.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// Four terms of a row of A, of a column of B.
    Terms,
    /// One term of four rows of A, of four columns of B.
    Lines,
}

/// Items in row-major order on a grid `[.., extent]`, and how many texels its three indices lie apart.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub extent: [usize; 2],
    pub steps: [i32; 3],
}

impl Grid {
    /// Items `step` texels apart.
    pub fn line(step: usize) -> Self {
        Grid { extent: [1, 1], steps: [step as i32, 0, 0] }
    }
}

/// For each group, C[m, n] (+)= sum over k of A[m, k] * B[k, n].
pub(super) struct Product {
    pub form: Form,
    pub groups: usize,
    pub rows: usize,
    /// In texels of [`Form::Lines`].
    pub columns: usize,
    /// In texels of [`Form::Terms`].
    pub terms: usize,
    /// From one group to the next, texels.
    pub a_group: usize,
    /// From one row to the next, or from four rows to the next four.
    pub a_row: usize,
    /// Of [`Form::Lines`]; those of [`Form::Terms`] lie side by side.
    pub a_steps: [i32; 3],
    pub b_first: usize,
    pub b_group: usize,
    pub column_grid: Grid,
    pub term_grid: Grid,
    pub c: Target,
    /// Of [`Form::Terms`].
    pub epilogue: Option<Epilogue>,
}

/// Where C is: element (m, n) at `group*group + m*row + (n / inner)*outer + n % inner` of the window. Of [`Form::Lines`], n is
/// a texel, whose element j is `j * channel` further on, as far as there are `channels`.
pub(super) struct Target {
    pub window: Window,
    pub group: usize,
    pub row: usize,
    pub inner: usize,
    pub outer: usize,
    pub channel: usize,
    pub channels: usize,
    pub accumulate: bool,
}

impl Target {
    /// A matrix of such rows.
    pub fn matrix(window: Window, columns: usize, form: Form) -> Self {
        let (inner, outer) = if form == Form::Terms { (columns, 0) } else { (1, 4) };
        Target { window, group: 0, row: columns, inner, outer, channel: 1, channels: columns, accumulate: false }
    }
}

impl Product {
    /// Dispatches it, as often as a grid's and a loop's longest extent asks for.
    pub fn run(&self, cx: &mut Lowering, a: &mut Texels, b: &mut Texels) -> Result<()> {
        let (kernel, columns, terms) = match self.form {
            Form::Terms => (&texel_product::MULTIPLY_TERMS, COLUMNS, MAX_TERMS),
            Form::Lines => (&texel_product::MULTIPLY_LINES, COLUMNS / 4, 4 * MAX_TERMS),
        };
        let (most_groups, groups) = (cx.capability.grid_side, self.columns.div_ceil(columns));
        for group in (0..groups).step_by(most_groups) {
            for first in (0..self.terms).step_by(terms) {
                let epilogue = self.epilogue.filter(|_| first + terms >= self.terms);
                let builder = match (self.form, epilogue) {
                    (Form::Lines, _) => cx.dispatch(kernel).set("bias_channels", [0_u32; 4]),
                    (Form::Terms, None) => {
                        let unread = cx.scratch(4);
                        let unread = cx.whole(&unread)?;
                        cx.dispatch(kernel).epilogue(None, unread)
                    }
                    (Form::Terms, epilogue) => cx.dispatch(kernel).epilogue(epilogue, self.c.window),
                };
                let builder = b.bind(a.bind(builder, "a"), "b");
                self.set(builder, group * columns, first..self.terms.min(first + terms)).grid([
                    self.rows.div_ceil(ROWS),
                    most_groups.min(groups - group),
                    self.groups,
                ])?;
            }
        }
        Ok(())
    }

    fn set<'a>(&self, builder: Builder<'a>, column_first: usize, terms: Range<usize>) -> Builder<'a> {
        let pair = |extents: [usize; 2]| extents.map(|n| n as u32);
        let c = &self.c;
        builder
            .bind("c", c.window)
            .set("rows", self.rows as u32)
            .set("columns", self.columns as u32)
            .set("terms", terms.len() as u32)
            .set("column_first", column_first as u32)
            .set("term_first", terms.start as u32)
            .set("a_group", self.a_group as u32)
            .set("b_group", self.b_group as u32)
            .set("a_row", self.a_row as u32)
            .set("b_first", self.b_first as u32)
            .set("column_grid", pair(self.column_grid.extent))
            .set("term_grid", pair(self.term_grid.extent))
            .set("column_steps", self.column_grid.steps)
            .set("a_steps", self.a_steps)
            .set("b_steps", self.term_grid.steps)
            .set("c_first", c.window.first)
            .set("c_group", c.group as u32)
            .set("c_row", c.row as u32)
            .set("c_inner", c.inner as u32)
            .set("c_outer", c.outer as u32)
            .set("c_channel", c.channel as u32)
            .set("channels", c.channels as u32)
            .set("accumulate", (c.accumulate || terms.start > 0) as u32)
    }
}
