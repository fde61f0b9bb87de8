//! Lowering of sum and mean, in passes of 16,384 elements a workgroup, and of the spreading of one number.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::reduce::{BROADCAST, SUM};
use crate::error::Result;
use crate::ops::{Broadcast, Reduce, ReduceKind};

/// Elements that a workgroup sums, as in the shader.
const PER_GROUP: usize = 16_384;

impl WgpuOp for Reduce {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let factor = match self.kind {
            ReduceKind::Sum => 1.0,
            ReduceKind::Mean => (1.0 / inputs[0].elements() as f64) as f32,
        };
        let mut x = inputs[0].clone();
        loop {
            let pieces: Vec<_> = cx.flat(x.elements()).collect();
            let partials: usize = pieces.iter().map(|piece| piece.len().div_ceil(PER_GROUP)).sum();
            let last = partials == 1;
            let sums = if last { outputs[0].clone() } else { cx.scratch(partials) };
            let mut first = 0;
            for piece in pieces {
                let groups = piece.len().div_ceil(PER_GROUP);
                let x = cx.window(&x, piece.clone())?;
                let window = cx.window(&sums, first..first + groups)?;
                cx.dispatch(&SUM)
                    .bind("x", x)
                    .bind("partials", window)
                    .set("count", piece.len() as u32)
                    .set("partials_first", window.first)
                    .set("factor", if last { factor } else { 1.0 })
                    .grid([groups, 1, 1])?;
                first += groups;
            }
            if last {
                return Ok(());
            }
            x = sums;
        }
    }
}

impl WgpuOp for Broadcast {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let x = cx.whole(&inputs[0])?;
        cx.each(&BROADCAST, &[("y", &outputs[0])], |d, _| d.bind("x", x))
    }
}
