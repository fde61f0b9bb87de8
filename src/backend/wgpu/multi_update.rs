//! Lowering of the optimizer's step on several small parameters: one dispatch, where the device binds so many buffers.

use super::WgpuOp;
use super::lowering::{ALIGNMENT, Lowering, ValueRef};
use super::shaders::{adam_multi, sgd_multi};
use crate::error::Result;
use crate::ops::{MultiUpdate, Op, UpdateRule};

/// f32 between the places of two bindings that nothing is done with.
const APART: usize = ALIGNMENT as usize / 4;

impl WgpuOp for MultiUpdate {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let [each, written] = self.counts();
        if self.rules.len() == 1 || cx.capability.storage_buffers < MultiUpdate::MOST * each + 1 {
            for (number, rule) in self.rules.iter().enumerate() {
                let outputs = &outputs[number * written..][..written];
                Op::from(rule.clone()).wgpu().lower(cx, &self.inputs(number, inputs), outputs)?;
            }
            return Ok(());
        }
        let (kernel, names) = match &self.rules[0] {
            UpdateRule::Adam(_) => (&adam_multi::UPDATE, &["w", "g", "m", "v"][..]),
            UpdateRule::Sgd(_) => (&sgd_multi::UPDATE, &["w", "g", "v"][..]),
        };
        // The kernel binds MOST parameters. One buffer is not read and written in the same dispatch.
        let unused = [cx.scratch(MultiUpdate::MOST * each * APART), cx.scratch(1)];
        let mut windows = Vec::new();
        for number in 0..MultiUpdate::MOST {
            for (place, name) in names.iter().enumerate() {
                let at = number * each + place;
                let window = match (number < self.rules.len(), *name) {
                    (true, _) => cx.whole(&inputs[at])?,
                    (false, "g") => cx.whole(&unused[1])?,
                    (false, _) => cx.window(&unused[0], at * APART..at * APART + 1)?,
                };
                windows.push((format!("{name}{number}"), window));
            }
        }
        let schedule = cx.whole(&inputs[inputs.len() - 1])?;
        let mut dispatch = cx.dispatch(kernel).bind("schedule", schedule);
        dispatch = match &self.rules[0] {
            UpdateRule::Adam(adam) => adam.set_form(dispatch),
            UpdateRule::Sgd(sgd) => sgd.set_form(dispatch),
        };
        for (name, window) in windows {
            dispatch = dispatch.bind(&name, window);
        }
        let mut most = 0;
        for number in 0..MultiUpdate::MOST {
            let (count, [rate, decay]) = match self.rules.get(number) {
                Some(rule) => (inputs[number * each].elements(), rule.factors()),
                None => (0, [0.0; 2]),
            };
            most = most.max(count);
            dispatch = dispatch
                .set(&format!("count{number}"), count as u32)
                .set(&format!("lr_scale{number}"), rate)
                .set(&format!("weight_decay{number}"), decay);
        }
        let groups = most.div_ceil(4 * kernel.invocations());
        dispatch.grid([groups, self.rules.len(), 1])
    }
}
