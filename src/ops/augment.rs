//! From u8 pictures to normalised f32 planes on the device: crop, resample, flip, normalise, in one pass.

use super::case::{Case, CaseInput, Fill};
use super::{Array, Forward, Operator, expect_shape, inputs_of, philox};
use crate::error::Result;
use crate::graph::autodiff::no_gradient;
use crate::graph::{Graph, ValueId};
use crate::rng::{Philox, stream, unit};
use crate::tensor::{DType, TensorType};

/// Which part of the stored picture the network sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Crop {
    /// The centre, `output` large, unscaled. The whole picture when the sizes agree.
    Center,
    /// A random place, `output` large, unscaled (the paper's 224 out of 256).
    Random,
    /// A random part with `min_area` to all of the picture's area and an aspect ratio of 3/4 to 4/3 (log-uniform), resampled
    /// bilinearly to `output`.
    Resized {
        /// Smallest part of the area, in (0, 1].
        min_area: f32,
    },
}

/// Inputs: pictures `u8 [N, H, W, 3]` (RGB), counter `u32 [4] = [seed low, seed high, step, 0]`. Output: x `f32 [N, 3, h, w]`,
/// `x[n,c,i,j] = (value / 255 - mean[c]) / std[c]`.
///
/// Random words of picture n are `philox(seed, stream::AUGMENT, step).block(2n)` = [flip, top, left, area] and
/// `.block(2n + 1)` = [aspect, ..]; u = `rng::unit(word)`.
/// Flip when `flip` is set and u_flip < 0.5: column j reads column w-1-j.
/// Center: top = floor((H-h)/2), left = floor((W-w)/2). Random: top = ((word_top >> 16) * (H-h+1)) >> 16 in u32, left alike.
/// Resized: area = H*W * (min_area + u_area * (1-min_area)); ratio = exp((2*u_aspect-1) * ln(4/3)); crop height
/// ch = min(sqrt(area/ratio), H), width cw = min(sqrt(area*ratio), W), real numbers; top = u_top * (H-ch), left = u_left * (W-cw);
/// output (i, j) samples at y = top + (i+0.5)*ch/h - 0.5, x = left + (j+0.5)*cw/w - 0.5, clamped to [0, H-1], [0, W-1], bilinearly.
#[derive(Clone, Debug, PartialEq)]
pub struct Augment {
    /// Height and width of the output.
    pub output: [usize; 2],
    /// Which part of the picture.
    pub crop: Crop,
    /// Mirror half of the pictures.
    pub flip: bool,
    /// Per channel, of pixels in [0, 1].
    pub mean: [f32; 3],
    /// Per channel, of pixels in [0, 1].
    pub std: [f32; 3],
}

/// Where picture n is sampled: output (i, j) reads the stored picture at (top + i * step_y, left + j * step_x).
pub(crate) struct Placement {
    /// Output column j reads column w-1-j.
    pub flip: bool,
    /// Top, left.
    pub origin: [f64; 2],
    /// Vertical, horizontal.
    pub step: [f64; 2],
}

impl Augment {
    pub(crate) fn placement(&self, random: Philox, n: u32, stored: [usize; 2]) -> Placement {
        let [flip, top, left, area] = random.block(2 * n);
        let [aspect, ..] = random.block(2 * n + 1);
        let flip = self.flip && unit(flip) < 0.5;
        let room = [stored[0] - self.output[0].min(stored[0]), stored[1] - self.output[1].min(stored[1])];
        // An integer product, so that every device rounds alike.
        let pick = |word: u32, room: usize| (((word >> 16) * (room as u32 + 1)) >> 16) as f64;
        match self.crop {
            Crop::Center => Placement { flip, origin: [(room[0] / 2) as f64, (room[1] / 2) as f64], step: [1.0; 2] },
            Crop::Random => Placement { flip, origin: [pick(top, room[0]), pick(left, room[1])], step: [1.0; 2] },
            Crop::Resized { min_area } => {
                let (h, w, min_area) = (stored[0] as f64, stored[1] as f64, min_area as f64);
                let area = h * w * (min_area + unit(area) as f64 * (1.0 - min_area));
                let ratio = ((2.0 * unit(aspect) as f64 - 1.0) * (4.0_f64 / 3.0).ln()).exp();
                let (crop_h, crop_w) = ((area / ratio).sqrt().min(h), (area * ratio).sqrt().min(w));
                let step = [crop_h / self.output[0] as f64, crop_w / self.output[1] as f64];
                let place = |word: u32, room: f64, step: f64| unit(word) as f64 * room + 0.5 * step - 0.5;
                Placement { flip, origin: [place(top, h - crop_h, step[0]), place(left, w - crop_w, step[1])], step }
            }
        }
    }
}

impl Operator for Augment {
    fn name(&self) -> &'static str {
        "augment"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [pictures, counter] = inputs_of([DType::U8, DType::U32], inputs)?;
        expect_shape("the random counter", &counter, &[4].into())?;
        let [n, h, w, channels] = pictures.nchw()?;
        let [out_h, out_w] = self.output;
        if channels != 3 {
            return Err(format!("expected pictures [N, H, W, 3], got {pictures}"));
        }
        if out_h == 0 || out_w == 0 || (!matches!(self.crop, Crop::Resized { .. }) && (out_h > h || out_w > w)) {
            return Err(format!("cannot crop {out_h} x {out_w} out of pictures of {h} x {w}"));
        }
        if h.max(w) > 65_535 {
            return Err(format!("pictures of {h} x {w} are too large: at most 65535 pixels a side"));
        }
        Ok(vec![TensorType::f32([n, 3, out_h, out_w])])
    }

    fn gradient(&self, _: &mut Graph, _: &Forward) -> Result<Vec<Option<ValueId>>> {
        Err(no_gradient(self))
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (pictures, random) = (&inputs[0], philox(&inputs[1], stream::AUGMENT));
        let (n_end, h, w) = (pictures.shape[0], pictures.shape[1], pictures.shape[2]);
        let [out_h, out_w] = self.output;
        let mut x = Array::zeros([n_end, 3, out_h, out_w]);
        for n in 0..n_end {
            let place = self.placement(random, n as u32, [h, w]);
            let pixel = |i: usize, j: usize, c: usize| pictures.data[((n * h + i) * w + j) * 3 + c];
            for (i, j) in (0..out_h).flat_map(|i| (0..out_w).map(move |j| (i, j))) {
                let column = if place.flip { out_w - 1 - j } else { j };
                let y = (place.origin[0] + i as f64 * place.step[0]).clamp(0.0, (h - 1) as f64);
                let x_ = (place.origin[1] + column as f64 * place.step[1]).clamp(0.0, (w - 1) as f64);
                let (top, left) = (y as usize, x_ as usize);
                let (bottom, right) = ((top + 1).min(h - 1), (left + 1).min(w - 1));
                let (fy, fx) = (y - top as f64, x_ - left as f64);
                for c in 0..3 {
                    let upper = pixel(top, left, c) * (1.0 - fx) + pixel(top, right, c) * fx;
                    let lower = pixel(bottom, left, c) * (1.0 - fx) + pixel(bottom, right, c) * fx;
                    let value = (upper * (1.0 - fy) + lower * fy) / 255.0;
                    x.data[((n * 3 + c) * out_h + i) * out_w + j] = (value - self.mean[c] as f64) / self.std[c] as f64;
                }
            }
        }
        vec![x]
    }

    fn cases() -> Vec<Case> {
        let case = |name, crop, flip, stored: [usize; 2], output: [usize; 2]| {
            let op = Augment { output, crop, flip, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
            let pictures =
                CaseInput { ty: TensorType::new([5, stored[0], stored[1], 3], DType::U8), fill: Fill::Bytes };
            // Rounding of a coordinate (its size times eps) moves the value by the neighbours' difference.
            let terms = if matches!(crop, Crop::Resized { .. }) { 16 * stored[0] * stored[1] } else { 1 };
            Case::new(op, name, vec![pictures, CaseInput::counter()], terms).without_gradient()
        };
        vec![
            case("whole picture", Crop::Center, false, [7, 5], [7, 5]),
            case("flip", Crop::Center, true, [6, 9], [6, 9]),
            case("centre", Crop::Center, false, [13, 10], [8, 7]),
            case("random crop and flip", Crop::Random, true, [19, 23], [11, 8]),
            case("resized", Crop::Resized { min_area: 0.25 }, true, [24, 20], [9, 13]),
            case("resized up", Crop::Resized { min_area: 0.08 }, false, [11, 15], [17, 19]),
        ]
    }
}
