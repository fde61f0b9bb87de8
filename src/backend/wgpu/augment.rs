//! Lowering of augmentation, in pieces of whole pictures.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use super::shaders::augment::FORWARD;
use crate::error::Result;
use crate::ops::augment::{fixed_area, fixed_side};
use crate::ops::augment_color::fixed_probability;
use crate::ops::{Augment, Color, Crop};
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
        let Color { brightness, contrast, saturation, pca } = self.color;
        let pca = pca.map(|[r, g, b]| [r, g, b, 0.0]);
        let counter = cx.whole(&inputs[1])?;
        // Without one nothing is read of what stands for it.
        let mean_image = inputs.get(2).map(|image| cx.whole(image)).transpose()?;
        let [n, stored_h, stored_w] = [0, 1, 2].map(|axis| pictures.ty.shape[axis]);
        let side = fixed_side([stored_h, stored_w]);
        for range in cx.rows(n, &[pictures, x])? {
            let pixels = cx.row_window(pictures, n, &range)?;
            let out = cx.row_window(x, n, &range)?;
            cx.dispatch(&FORWARD)
                .bind("pixels", pixels)
                .bind("counter", counter)
                .bind("out", out)
                .bind("mean_image", mean_image.unwrap_or(counter))
                .constant("MEAN_IMAGE", mean_image.is_some())
                .constant("CROP", crop)
                .constant("FLIP", self.flip)
                .constant("COLOR", self.color != Color::NONE)
                .constant("ERASE", self.erase > 0.0)
                .set("mean", [self.mean[0], self.mean[1], self.mean[2], 0.0])
                .set("deviation", [self.std[0], self.std[1], self.std[2], 1.0])
                .set("pictures", range.len() as u32)
                .set("first_picture", (self.first_picture + range.start) as u32)
                .set("pixels_first", pixels.first)
                .set("out_first", out.first)
                .set("stored_h", stored_h as u32)
                .set("stored_w", stored_w as u32)
                .set("h", h as u32)
                .set("w", w as u32)
                .set("stream", stream::AUGMENT)
                .set("min_area", min_area)
                .set("side", side)
                .set("color_stream", stream::COLOR)
                .set("erase", fixed_probability(self.erase))
                .set("out_side", fixed_side(self.output))
                .set("strengths", [brightness, contrast, saturation, 0.0])
                .set("pca_r", pca[0])
                .set("pca_g", pca[1])
                .set("pca_b", pca[2])
                .threads(range.len() * h * w)?;
        }
        Ok(())
    }
}
