//! Lowering of mixing, in pieces of whole pictures.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::mix::MIX_ROWS;
use crate::error::Result;
use crate::ops::Mix;

impl WgpuOp for Mix {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let ([x, plan], out) = ([&inputs[0], &inputs[1]], &outputs[0]);
        let n = x.ty.shape[0];
        let row = x.elements() / n;
        for range in cx.rows(n, &[x, out])? {
            let others = cx.row_window(x, n, &(n - range.end..n - range.start))?;
            let (own, mixed) = (cx.row_window(x, n, &range)?, cx.row_window(out, n, &range)?);
            let plan = cx.row_window(plan, n, &range)?;
            cx.dispatch(&MIX_ROWS)
                .bind("x", own)
                .bind("others", others)
                .bind("plan", plan)
                .bind("out", mixed)
                .set("count", (range.len() * row) as u32)
                .set("row", row as u32)
                .set("height", x.ty.shape[2] as u32)
                .set("width", x.ty.shape[3] as u32)
                .set("pictures", range.len() as u32)
                .set("x_first", own.first)
                .set("others_first", others.first)
                .set("plan_first", plan.first)
                .set("out_first", mixed.first)
                .threads(range.len() * row)?;
        }
        Ok(())
    }
}
