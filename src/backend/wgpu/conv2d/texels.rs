//! The product of a convolution on texels: pictures get borders, so that every place that a kernel reads is there; none is
//! copied for each of the kernel's places.

use super::super::lowering::Lowering;
use super::super::texels::{Form, Grid, Pack, Product as TexelProduct, ROWS, Target, Texels, piece};
use super::{Pictures, Product};
use crate::error::Result;

impl Product {
    /// Lowers to products of texels; false, and nothing lowered, where the pictures are too large for textures.
    pub(super) fn lower_texels(&self, cx: &mut Lowering) -> Result<bool> {
        let (a, b, c) = (&self.a, &self.b, &self.c);
        let area = |grid: [usize; 2]| grid[0] * grid[1];
        let along_columns = self.pictures == Pictures::Columns;
        let (pictures, channels, line_step, channel_step) = match self.pictures {
            Pictures::Columns => (self.n / area(b.column_grid), self.k / area(b.term_grid), b.column, b.term),
            Pictures::Terms => (self.k / area(b.term_grid), self.n / area(b.column_grid), b.term, b.column),
        };
        // The places that are read, from the first on.
        let reach = |d: usize, end: fn(i32, i32) -> i32| {
            let far = |grid: [usize; 2], step: [i32; 2]| end(0, (grid[d] as i32 - 1) * step[d]);
            b.origin[d] + far(b.column_grid, b.column_step) + far(b.term_grid, b.term_step)
        };
        let first = [0, 1].map(|d| reach(d, i32::min));
        let extent = [0, 1].map(|d| (reach(d, i32::max) - first[d] + 1) as usize);
        let planes = |pictures| Pack {
            groups: self.groups,
            lines: pictures,
            channels,
            extent,
            image: b.image,
            before: first.map(|n| -n),
            step: b.divisor,
            group_step: b.group,
            line_step,
            channel_step,
        };
        let rows = |rows, pictures| match self.pictures {
            Pictures::Columns => Pack {
                groups: self.groups,
                group_step: a.group,
                line_step: a.row,
                channel_step: if a.inner == area(b.term_grid) { a.outer } else { area(b.term_grid) },
                ..Pack::pictures(rows, channels, b.term_grid)
            },
            Pictures::Terms => Pack {
                groups: self.groups,
                group_step: a.group,
                line_step: a.outer,
                channel_step: a.row,
                ..Pack::pictures(pictures, rows, b.term_grid)
            },
        };
        let one_row = rows(1, 1);
        let terms = match self.pictures {
            Pictures::Columns => one_row.line_texels(),
            Pictures::Terms => area(b.term_grid),
        };
        let (rows_at_once, picture) = if along_columns {
            let most = piece(self.groups * one_row.line_texels() * ROWS) * ROWS;
            (most.min(self.m.next_multiple_of(ROWS)), planes(1).line_texels())
        } else {
            (self.m, planes(1).line_texels().max(rows(self.m, 1).line_texels()))
        };
        let at_once = piece(self.groups * picture).min(pictures);
        if !planes(at_once).fits() || !rows(rows_at_once, at_once).fits() {
            return Ok(false);
        }
        let places = area(b.column_grid);
        cx.reuse_textures(); // of the products before, for other windows
        let a_texture = rows(rows_at_once, at_once).texture(cx);
        let b_texture = planes(at_once).texture(cx);
        let start = [0, 1].map(|d| (b.origin[d] - first[d]) as usize);
        let steps = |outer: usize, step: [i32; 2]| [outer as i32, step[0].wrapping_mul(extent[1] as i32), step[1]];
        for m in (0..self.m).step_by(rows_at_once) {
            let m = m..self.m.min(m + rows_at_once);
            for picture in (0..pictures).step_by(at_once) {
                let count = at_once.min(pictures - picture);
                let (rows, planes) = (rows(m.len(), count), planes(count));
                let a_first = m.start * a.row + if along_columns { 0 } else { picture * a.outer };
                if picture == 0 || !along_columns {
                    rows.run(cx, a.window.skip(a_first), a_texture)?;
                }
                planes.run(cx, b.window.skip(picture * line_step), b_texture)?;
                let (line, plane) = (planes.line_texels(), planes.plane());
                let [column_outer, term_outer] = if along_columns { [line, plane] } else { [plane, line] };
                let target = Target {
                    window: c.window.skip(m.start * c.row + if along_columns { picture * c.outer } else { 0 }),
                    group: c.group,
                    row: c.row,
                    inner: places,
                    outer: if along_columns { c.outer } else { 4 * places },
                    channel: places,
                    channels,
                    accumulate: self.accumulate || picture > 0 && !along_columns,
                };
                let product = TexelProduct {
                    form: if along_columns { Form::Terms } else { Form::Lines },
                    groups: self.groups,
                    rows: m.len(),
                    columns: if along_columns { count * places } else { channels.div_ceil(4) * places },
                    terms: if along_columns { terms } else { count * terms },
                    a_group: rows.group_texels(),
                    a_row: if along_columns { rows.line_texels() } else { rows.plane() },
                    a_steps: [rows.line_texels() as i32, b.term_grid[1] as i32, 1],
                    b_first: start[0] * extent[1] + start[1],
                    b_group: planes.group_texels(),
                    column_grid: Grid { extent: b.column_grid, steps: steps(column_outer, b.column_step) },
                    term_grid: Grid { extent: b.term_grid, steps: steps(term_outer, b.term_step) },
                    c: target,
                    epilogue: self.epilogue.map(|epilogue| epilogue.skip(m.start)),
                };
                product.run(cx, &mut Texels::Ready(a_texture), &mut Texels::Ready(b_texture))?;
            }
        }
        Ok(true)
    }
}
