//! Lowering of a linear layer's update, see `shaders/linear_update.wgsl`. What that kernel cannot do (rows of no whole vec4s, a
//! batch that is not bound at once) is its gradient in scratch memory, then the optimizer's own kernel.

use super::WgpuOp;
use super::linear::texels::Layer;
use super::linear::{LANES, MAX_SUMMED, OUTPUTS};
use super::lowering::{Lowering, ValueRef};
use super::shaders::linear_update::{UPDATE_ADAM, UPDATE_SGD};
use crate::error::Result;
use crate::ops::{LinearBackwardWeight, LinearUpdate, UpdateRule};

impl WgpuOp for LinearUpdate {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let [x, dy, states @ .., schedule] = inputs else { unreachable!("infer has counted the inputs") };
        let ([n, features], outs) = ([x.ty.shape[0], x.ty.shape[1]], dy.ty.shape[1]);
        if let Some(layer) = Layer::new(cx, x, &states[0])
            && layer.updates(cx, x, dy)?
        {
            return layer.update(cx, &self.rule, [x, dy, schedule], states);
        }
        let at_once = n <= MAX_SUMMED && cx.rows(n, &[x, dy])?.len() == 1;
        if features % 4 != 0 || !at_once {
            return self.lower_apart(cx, inputs, outputs);
        }
        for range in cx.rows(outs, &[&states[0]])? {
            let (x, dy, schedule) = (cx.whole(x)?, cx.whole(dy)?, cx.whole(schedule)?);
            let windows = states.iter().map(|state| cx.row_window(state, outs, &range)).collect::<Result<Vec<_>>>()?;
            let w_first = windows[0].first / 4;
            let (dispatch, names) = match &self.rule {
                UpdateRule::Adam(adam) => (adam.set(cx.dispatch(&UPDATE_ADAM)), &["w", "m", "v"][..]),
                UpdateRule::Sgd(sgd) => (sgd.set(cx.dispatch(&UPDATE_SGD)), &["w", "v"][..]),
            };
            std::iter::zip(names, windows)
                .fold(dispatch, |dispatch, (name, window)| dispatch.bind(name, window))
                .bind("x", x)
                .bind("dy", dy)
                .bind("schedule", schedule)
                .set("rows", n as u32)
                .set("outputs", range.len() as u32)
                .set("inputs", (features / 4) as u32)
                .set("x_first", x.first / 4)
                .set("w_first", w_first)
                .set("dy_first", dy.first + range.start as u32)
                .set("dy_row", outs as u32)
                .grid([(features / 4).div_ceil(2 * LANES), range.len().div_ceil(OUTPUTS), 1])?;
        }
        Ok(())
    }
}

impl LinearUpdate {
    fn lower_apart(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let gradient = Self::gradient(cx, outputs);
        LinearBackwardWeight.lower(cx, &inputs[..2], std::slice::from_ref(&gradient))?;
        self.step(cx, inputs, outputs, gradient)
    }

    /// The optimizer's step alone, with the gradient in scratch memory.
    pub(super) fn lower_step(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let gradient = Self::gradient(cx, outputs);
        self.step(cx, inputs, outputs, gradient)
    }

    fn gradient(cx: &mut Lowering, outputs: &[ValueRef]) -> ValueRef {
        ValueRef { ty: outputs[0].ty.clone(), ..cx.scratch(outputs[0].elements()) }
    }

    fn step(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef], gradient: ValueRef) -> Result<()> {
        let inputs = LinearUpdate::of_rule(inputs, gradient);
        match &self.rule {
            UpdateRule::Sgd(sgd) => sgd.lower(cx, &inputs, outputs),
            UpdateRule::Adam(adam) => adam.lower(cx, &inputs, outputs),
        }
    }
}
