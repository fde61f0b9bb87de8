//! Lowering of augmentation, in pieces of whole pictures.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::augment::FORWARD;
use crate::error::Result;
use crate::ops::{Augment, Crop};
use crate::rng::stream;

impl WgpuOp for Augment {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let (pictures, x) = (&inputs[0], &outputs[0]);
        let [h, w] = self.output;
        let (crop, min_area) = match self.crop {
            Crop::Center => (0, 1.0),
            Crop::Random => (1, 1.0),
            Crop::Resized { min_area } => (2, min_area),
        };
        let counter = cx.whole(&inputs[1])?;
        let n = pictures.ty.shape[0];
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
                .set("stored_h", pictures.ty.shape[1] as u32)
                .set("stored_w", pictures.ty.shape[2] as u32)
                .set("h", h as u32)
                .set("w", w as u32)
                .set("stream", stream::AUGMENT)
                .set("min_area", min_area)
                .threads(range.len() * h * w)?;
        }
        Ok(())
    }
}
