//! Fully connected layers, see `shaders/linear.wgsl`. The weight is cut into windows over its rows (the outputs), the batch
//! where its rows do not fit.

pub(super) mod texels;
mod tiles;

use super::WgpuOp;
use super::biased::Epilogue;
use super::lowering::{Lowering, ValueRef, Window};
use super::shaders::{Kernel, linear};
use super::tile::Parts;
use crate::error::Result;
use crate::ops::{Linear, LinearBackwardInput, LinearBackwardWeight};

/// Outputs that an invocation of `forward` and `backward_weight` works on.
pub(super) const OUTPUTS: usize = 8;

/// Invocations of a workgroup.
pub(super) const LANES: usize = 64;

/// Workgroups of `backward_input` that keep a large GPU busy; with fewer than these, the sums over outputs are cut.
const BUSY: usize = 512;

/// Outputs that an invocation of `backward_input` sums at most, and rows that one of `backward_weight` does.
pub(super) const MAX_SUMMED: usize = 32_768;

impl WgpuOp for Linear {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        forward(self, cx, [&inputs[0], &inputs[1], &outputs[0]], None)
    }
}

/// y[n, o] = sum over i of x[n, i] * w[o, i], finished.
pub(super) fn forward(
    op: &Linear,
    cx: &mut Lowering,
    [x, w, y]: [&ValueRef; 3],
    epilogue: Option<Epilogue>,
) -> Result<()> {
    if let Some(layer) = texels::Layer::new(cx, x, w) {
        return layer.forward(cx, [x, w, y], epilogue);
    }
    let e = Extents::new(x, w);
    let (kernel, rows_at_once) = match (e.element.width, e.batch) {
        (4, ..=2) => (&linear::FORWARD_2_VEC4F, 2),
        (4, _) => (&linear::FORWARD_8_VEC4F, 8),
        (_, ..=2) => (&linear::FORWARD_2_F32, 2),
        _ => (&linear::FORWARD_8_F32, 8),
    };
    if let Some(way) = tiles::choose(cx, e.batch, kernel) {
        return tiles::forward(cx, way, [x, w, y], epilogue);
    }
    cx.check_iterations(op, e.inputs().div_ceil(LANES) + LANES, "make the input smaller")?;
    for rows in cx.rows(e.batch, &[x, y])? {
        for range in cx.rows(e.outputs, &[w])? {
            let y = cx.row_window(y, e.batch, &rows)?;
            let size = [rows.len(), range.len()];
            let windows = [cx.row_window(x, e.batch, &rows)?, cx.row_window(w, e.outputs, &range)?];
            let dispatch = Dispatch {
                size,
                x: windows[0],
                w: windows[1],
                y,
                y_skip: range.start,
                accumulate: false,
                epilogue: epilogue.map(|epilogue| epilogue.of_columns().skip(range.start)),
            };
            let grid = [size[0].div_ceil(rows_at_once), size[1].div_ceil(OUTPUTS), 1];
            dispatch.run(cx, &e, kernel, ["x", "w"], "y", range.len(), grid)?;
        }
    }
    Ok(())
}

impl WgpuOp for LinearBackwardInput {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let (dy, w, dx) = (&inputs[0], &inputs[1], &outputs[0]);
        if let Some(layer) = texels::Layer::new(cx, dx, w) {
            return layer.backward_input(cx, dy, w, dx);
        }
        let e = Extents::new(dx, w);
        let (kernel, rows_at_once) = match (e.element.width, e.batch) {
            (4, ..=2) => (&linear::BACKWARD_INPUT_2_VEC4F, 2),
            (4, _) => (&linear::BACKWARD_INPUT_8_VEC4F, 8),
            (_, ..=2) => (&linear::BACKWARD_INPUT_2_F32, 2),
            _ => (&linear::BACKWARD_INPUT_8_F32, 8),
        };
        if let Some(way) = tiles::choose(cx, e.batch, kernel) {
            return tiles::backward_input(cx, way, dy, w, dx);
        }
        for rows in cx.rows(e.batch, &[dx, dy])? {
            for range in cx.rows(e.outputs, &[w])? {
                for first in range.clone().step_by(MAX_SUMMED) {
                    let range = first..range.end.min(first + MAX_SUMMED);
                    let target = cx.row_window(dx, e.batch, &rows)?;
                    let mut dispatch = Dispatch {
                        size: [rows.len(), range.len()],
                        x: target,
                        w: cx.row_window(w, e.outputs, &range)?,
                        y: cx.row_window(dy, e.batch, &rows)?,
                        y_skip: range.start,
                        accumulate: range.start > 0,
                        epilogue: None,
                    };
                    let groups = [e.inputs().div_ceil(LANES), rows.len().div_ceil(rows_at_once)];
                    let elements = rows.len() * e.features;
                    let mut splits = 1;
                    if !cx.capability.software {
                        let most = (cx.capability.max_window as usize / 4 / elements).min(range.len() / LANES);
                        splits = (BUSY / (groups[0] * groups[1])).min(most).max(1);
                    }
                    let split = range.len().div_ceil(splits);
                    let splits = range.len().div_ceil(split);
                    let grid = [groups[0], groups[1], splits];
                    if splits == 1 {
                        dispatch.run(cx, &e, kernel, ["dx", "w"], "dy", split, grid)?;
                        continue;
                    }
                    let partial = cx.scratch(elements * splits);
                    dispatch.x = cx.whole(&partial)?;
                    dispatch.accumulate = false;
                    dispatch.run(cx, &e, kernel, ["dx", "w"], "dy", split, grid)?;
                    let (rows, columns, accumulate) = (rows.len(), e.features, range.start > 0);
                    let parts = Parts { elements, parts: splits, rows, columns, accumulate, epilogue: None };
                    parts.sum(cx, dispatch.x, target)?;
                }
            }
        }
        Ok(())
    }
}

impl WgpuOp for LinearBackwardWeight {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let (x, dy, dw) = (&inputs[0], &inputs[1], &outputs[0]);
        if let Some(layer) = texels::Layer::new(cx, x, dw) {
            return layer.backward_weight(cx, x, dy, dw);
        }
        let e = Extents::new(x, dw);
        let kernel = if e.element.width == 4 { &linear::BACKWARD_WEIGHT_VEC4F } else { &linear::BACKWARD_WEIGHT_F32 };
        if let Some(way) = tiles::choose(cx, e.batch, kernel) {
            return tiles::backward_weight(cx, way, x, dy, dw);
        }
        for range in cx.rows(e.outputs, &[dw])? {
            let pieces = cx.rows(e.batch, &[x, dy])?;
            let pieces = pieces.into_iter().flat_map(|rows| {
                rows.clone().step_by(MAX_SUMMED).map(move |first| first..rows.end.min(first + MAX_SUMMED))
            });
            for rows in pieces {
                let dispatch = Dispatch {
                    size: [rows.len(), range.len()],
                    x: cx.row_window(x, e.batch, &rows)?,
                    w: cx.row_window(dw, e.outputs, &range)?,
                    y: cx.row_window(dy, e.batch, &rows)?,
                    y_skip: range.start,
                    accumulate: rows.start > 0,
                    epilogue: None,
                };
                let grid = [e.inputs().div_ceil(2 * LANES), range.len().div_ceil(OUTPUTS), 1];
                dispatch.run(cx, &e, kernel, ["x", "dw"], "dy", 0, grid)?;
            }
        }
        Ok(())
    }
}

/// What the inputs are read as: whole vec4s where a row is made of them.
struct Element {
    /// f32 in one.
    width: usize,
    /// WGSL's name.
    name: &'static str,
}

struct Extents {
    batch: usize,
    /// f32 of a row of x.
    features: usize,
    outputs: usize,
    element: Element,
}

impl Extents {
    fn new(x: &ValueRef, w: &ValueRef) -> Self {
        let (batch, features, outputs) = (x.ty.shape[0], x.ty.shape[1], w.ty.shape[0]);
        let element =
            if features % 4 == 0 { Element { width: 4, name: "vec4f" } } else { Element { width: 1, name: "f32" } };
        Extents { batch, features, outputs, element }
    }

    /// Elements of a row of x.
    fn inputs(&self) -> usize {
        self.features / self.element.width
    }
}

/// One dispatch of any of the kernels.
struct Dispatch {
    /// Rows of the batch and outputs.
    size: [usize; 2],
    /// x or dx.
    x: Window,
    /// w or dw.
    w: Window,
    /// y or dy.
    y: Window,
    /// Place of the first output in a row of y.
    y_skip: usize,
    accumulate: bool,
    /// Of the forward kernels.
    epilogue: Option<Epilogue>,
}

impl Dispatch {
    /// Binds `x` and `w` to the kernel's variables of these stems and `y` to that name, and dispatches.
    #[expect(clippy::too_many_arguments)]
    fn run(
        &self,
        cx: &mut Lowering,
        e: &Extents,
        kernel: &Kernel,
        [x, w]: [&str; 2],
        y: &str,
        split: usize,
        grid: [usize; 3],
    ) -> Result<()> {
        let element = &e.element;
        let forward = kernel.bindings.iter().any(|binding| binding.name == "bias");
        let dispatch = match forward {
            true => cx.dispatch(kernel).epilogue(self.epilogue, self.x),
            false => cx.dispatch(kernel).set("bias_channels", [0_u32; 4]),
        };
        dispatch
            .bind(&format!("{x}_{}", element.name), self.x)
            .bind(&format!("{w}_{}", element.name), self.w)
            .bind(y, self.y)
            .set("rows", self.size[0] as u32)
            .set("outputs", self.size[1] as u32)
            .set("inputs", e.inputs() as u32)
            .set("x_first", self.x.first / element.width as u32)
            .set("w_first", self.w.first / element.width as u32)
            .set("y_first", self.y.first + self.y_skip as u32)
            .set("y_row", e.outputs as u32)
            .set("accumulate", self.accumulate as u32)
            .set("split", split as u32)
            .grid(grid)
    }
}
