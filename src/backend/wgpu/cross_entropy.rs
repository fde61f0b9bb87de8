//! Lowering of cross entropy: a workgroup per row, and one for what is over all rows.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::cross_entropy::{BACKWARD, COUNT, MEAN, ROW_LOSSES};
use super::softmax::row_iterations;
use crate::error::Result;
use crate::ops::{CrossEntropy, CrossEntropyBackward, Operator};

/// Whether rows and classes are few enough.
fn check(op: &dyn Operator, cx: &Lowering, logits: &ValueRef) -> Result<()> {
    let over_rows = 2 * logits.ty.shape[0].div_ceil(256) + 16;
    cx.check_iterations(op, row_iterations(logits).max(over_rows), "use fewer classes or a smaller batch")
}

impl WgpuOp for CrossEntropy {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let (logits, labels) = (&inputs[0], &inputs[1]);
        check(self, cx, logits)?;
        let (n, classes) = (logits.ty.shape[0], logits.ty.shape[1]);
        let losses = cx.scratch(n);
        for range in cx.rows(n, &[logits, labels])? {
            // Without weights nothing is read of what stands for them.
            let weights = cx.row_window(inputs.get(2).unwrap_or(logits), n, &range)?;
            let logits = cx.row_window(logits, n, &range)?;
            let labels = cx.row_window(labels, n, &range)?;
            let out = cx.row_window(&losses, n, &range)?;
            cx.dispatch(&ROW_LOSSES)
                .constant("WEIGHTED", self.weighted)
                .bind("weights", weights)
                .set("weights_first", weights.first)
                .bind("logits", logits)
                .bind("labels", labels)
                .bind("out", out)
                .set("rows", range.len() as u32)
                .set("classes", classes as u32)
                .set("logits_first", logits.first)
                .set("labels_first", labels.first)
                .set("out_first", out.first)
                .set("smoothing", self.label_smoothing)
                .groups(range.len())?;
        }
        let (losses, labels, out) = (cx.whole(&losses)?, cx.whole(labels)?, cx.whole(&outputs[0])?);
        cx.dispatch(&MEAN)
            .bind("losses", losses)
            .bind("labels", labels)
            .bind("out", out)
            .set("rows", n as u32)
            .groups(1)
    }
}

impl WgpuOp for CrossEntropyBackward {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let (logits, labels, dx) = (&inputs[0], &inputs[1], &outputs[0]);
        check(self, cx, logits)?;
        let (n, classes) = (logits.ty.shape[0], logits.ty.shape[1]);
        let labelled = cx.scratch(1);
        let (all_labels, labelled, dloss) = (cx.whole(labels)?, cx.whole(&labelled)?, cx.whole(&inputs[2])?);
        cx.dispatch(&COUNT).bind("labels", all_labels).bind("out", labelled).set("rows", n as u32).groups(1)?;
        for range in cx.rows(n, &[logits, labels])? {
            let weights = cx.row_window(inputs.get(3).unwrap_or(logits), n, &range)?;
            let logits = cx.row_window(logits, n, &range)?;
            let labels = cx.row_window(labels, n, &range)?;
            let out = cx.row_window(dx, n, &range)?;
            cx.dispatch(&BACKWARD)
                .constant("WEIGHTED", self.weighted)
                .bind("weights", weights)
                .set("weights_first", weights.first)
                .bind("logits", logits)
                .bind("labels", labels)
                .bind("dloss", dloss)
                .bind("labelled", labelled)
                .bind("out", out)
                .set("rows", range.len() as u32)
                .set("classes", classes as u32)
                .set("logits_first", logits.first)
                .set("labels_first", labels.first)
                .set("out_first", out.first)
                .set("smoothing", self.label_smoothing)
                .groups(range.len())?;
        }
        Ok(())
    }
}
