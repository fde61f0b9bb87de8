//! Lowering of augmentation, in pieces of whole pictures.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::augment::FORWARD;
use crate::error::Result;
use crate::ops::augment::{fixed_area, fixed_side};
use crate::ops::{Augment, Crop};
use crate::rng::stream;

impl WgpuOp for Augment {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let (pictures, x) = (&inputs[0], &outputs[0]);
        let [h, w] = self.output;
        let (crop, min_area) = match self.crop {
            Crop::Center => (0, 0),
            Crop::Random => (1, 0),
            Crop::Resized { min_area } => (2, fixed_area(min_area)),
        };
        let counter = cx.whole(&inputs[1])?;
        let [n, stored_h, stored_w] = [0, 1, 2].map(|axis| pictures.ty.shape[axis]);
        let side = fixed_side([stored_h, stored_w]);
        for range in cx.rows(n, &[pictures, x])? {
            let pixels = cx.row_window(pictures, n, &range)?;
            let out = cx.row_window(x, n, &range)?;
            cx.dispatch(&FORWARD)
                .bind("pixels", pixels)
                .bind("counter", counter)
                .bind("out", out)
                .constant("CROP", crop)
                .constant("FLIP", self.flip)
                .set("mean", [self.mean[0], self.mean[1], self.mean[2], 0.0])
                .set("deviation", [self.std[0], self.std[1], self.std[2], 1.0])
                .set("pictures", range.len() as u32)
                .set("first_picture", range.start as u32)
                .set("pixels_first", pixels.first)
                .set("out_first", out.first)
                .set("stored_h", stored_h as u32)
                .set("stored_w", stored_w as u32)
                .set("h", h as u32)
                .set("w", w as u32)
                .set("stream", stream::AUGMENT)
                .set("min_area", min_area)
                .set("side", side)
                .threads(range.len() * h * w)?;
        }
        Ok(())
    }
}
