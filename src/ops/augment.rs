//! From u8 pictures to normalised f32 planes on the device: crop, resample, flip, normalise, in one pass.

use super::augment_color::{Color, erased};
use super::case::{Case, CaseInput, Fill};
use super::draw::Draw;
use super::tolerance::relative;
use super::{Array, Forward, Op, Operator, expect_shape, inputs_of, philox};
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

/// Inputs: pictures `u8 [N, H, W, 3]` (RGB), counter `u32 [4] = [seed low, seed high, step, 0]`, and, where each place has a mean of its
/// own, the mean image `f32 [3, H, W]` of pixels in [0, 1]. Output: x `f32 [N, 3, h, w]`, `x[n,c,i,j] = (value / 255 - mean) / std[c]`,
/// where mean is `mean[c]`, or what the mean image has at the places that value is of.
///
/// Random words of picture n, counted from `first_picture`, are `philox(seed, stream::AUGMENT, step).block(2n)` = [flip, top, left, area] and
/// `.block(2n + 1)` = [aspect, ..]; u = `rng::unit(word)`.
/// Flip when `flip` is set and u_flip < 0.5: column j reads column w-1-j.
/// Center: top = floor((H-h)/2), left = floor((W-w)/2). Random: top = ((word_top >> 16) * (H-h+1)) >> 16 in u32, left alike.
/// Resized: area = H*W * (min_area + u_area * (1-min_area)); ratio = exp((2*u_aspect-1) * ln(4/3)); crop height
/// ch = min(sqrt(area/ratio), H), width cw = min(sqrt(area*ratio), W); top = u_top * (H-ch), left = u_left * (W-cw);
/// output (i, j) samples at y = top + (i+0.5)*ch/h - 0.5, x = left + (j+0.5)*cw/w - 0.5, clamped to [0, H-1], [0, W-1], bilinearly.
/// All of that in integers, places in 1/65536 of a pixel, u in 16 bits: so every device samples the same places to the bit.
///
/// Colours ([`Color`]) and what is erased come from the words of `stream::COLOR`, blocks 8n to 8n + 4.
#[derive(Clone, Debug, PartialEq)]
pub struct Augment {
    /// Height and width of the output.
    pub output: [usize; 2],
    /// The first picture's n, where these are part of a batch; else 0.
    pub first_picture: usize,
    /// Which part of the picture.
    pub crop: Crop,
    /// Mirror half of the pictures.
    pub flip: bool,
    /// Per channel, of pixels in [0, 1].
    pub mean: [f32; 3],
    /// Whether there is a mean image.
    pub mean_image: bool,
    /// Per channel, of pixels in [0, 1].
    pub std: [f32; 3],
    /// What is done to the colours.
    pub color: Color,
    /// Probability with which a part of the picture is erased: 0 after normalisation.
    pub erase: f32,
}

/// Where picture n is sampled: output (i, j) reads the stored picture at (top + i * step_y, left + j * step_x), in pixels / [`ONE`].
pub(crate) struct Placement {
    /// Output column j reads column w-1-j.
    pub flip: bool,
    /// Top, left.
    pub origin: [i32; 2],
    /// Vertical, horizontal.
    pub step: [i32; 2],
}

/// A pixel, as places are counted.
pub(crate) const ONE: i32 = 1 << 16;

impl Placement {
    /// Along an axis of `extent` pixels, the two pixels between which output `i` is sampled, and the share of the second.
    pub(crate) fn taps(&self, axis: usize, i: usize, extent: usize) -> (usize, usize, f32) {
        let at = (self.origin[axis] + i as i32 * self.step[axis]).clamp(0, (extent as i32 - 1) * ONE);
        let low = (at / ONE) as usize;
        (low, (low + 1).min(extent - 1), (at % ONE) as f32 / ONE as f32)
    }
}

/// floor(a * b / 2^bits), where that fits; b at most 2^bits, or 2^17 with 15 bits and a below 2^30.
pub(super) fn multiply(a: u32, b: u32, bits: u32) -> u32 {
    (a >> bits) * b + (((a & ((1 << bits) - 1)) * b) >> bits)
}

/// exp(t * ln(4/3) / 2) for t of -1 to 1 in 1/32768, in 1/32768, by the first four terms of its series: 2e-5 off at most.
pub(super) fn half_aspect(t: i32) -> u32 {
    // In 1/2^18: ln(4/3) / 2 * 2^18 / 2^15 = 18854 / 2^14.
    let x = (t * 18_854) >> 14;
    let square = (x * x) >> 18;
    let cube = (square * x) >> 18;
    (((1 << 18) + x + square / 2 + cube / 6) >> 3) as u32
}

/// What the shader takes of the share of the area: in 1/65536.
pub(crate) fn fixed_area(min_area: f32) -> u32 {
    (min_area * 65_536.0).round() as u32
}

/// Side of a square as large as the stored picture, in pixels / [`ONE`].
pub(crate) fn fixed_side(stored: [usize; 2]) -> u32 {
    ((stored[0] as f64 * stored[1] as f64).sqrt() * ONE as f64).round() as u32
}

impl Augment {
    pub(crate) fn placement(&self, random: Philox, n: u32, stored: [usize; 2]) -> Placement {
        let [flip, top, left, area] = random.block(2 * n);
        let [aspect, ..] = random.block(2 * n + 1);
        let flip = self.flip && unit(flip) < 0.5;
        let room = [stored[0] - self.output[0].min(stored[0]), stored[1] - self.output[1].min(stored[1])];
        // An integer product, so that every device rounds alike.
        let pick = |word: u32, room: usize| (((word >> 16) * (room as u32 + 1)) >> 16) as i32 * ONE;
        match self.crop {
            Crop::Center => Placement { flip, origin: room.map(|room| (room / 2) as i32 * ONE), step: [ONE; 2] },
            Crop::Random => Placement { flip, origin: [pick(top, room[0]), pick(left, room[1])], step: [ONE; 2] },
            Crop::Resized { min_area } => {
                let min_area = fixed_area(min_area);
                let area = (min_area + multiply(65_536 - min_area, area >> 16, 16)).min(65_535);
                let side = multiply(fixed_side(stored), (area << 16).isqrt(), 16);
                let t = (aspect >> 16) as i32 - 32_768;
                let along = |axis: usize, word: u32, t: i32| {
                    let extent = (stored[axis] as u32) << 16;
                    let crop = multiply(side, half_aspect(t), 15).min(extent);
                    let step = (crop / self.output[axis] as u32) as i32;
                    (multiply(extent - crop, word >> 16, 16) as i32 + step / 2 - ONE / 2, step)
                };
                let [(top, down), (left, right)] = [along(0, top, -t), along(1, left, t)];
                Placement { flip, origin: [top, left], step: [down, right] }
            }
        }
    }
}

impl Operator for Augment {
    fn name(&self) -> &'static str {
        "augment"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let (pictures, counter, image) = match self.mean_image {
            true => {
                let [pictures, counter, image] = inputs_of([DType::U8, DType::U32, DType::F32], inputs)?;
                (pictures, counter, Some(image))
            }
            false => {
                let [pictures, counter] = inputs_of([DType::U8, DType::U32], inputs)?;
                (pictures, counter, None)
            }
        };
        expect_shape("the random counter", &counter, &[4].into())?;
        let [n, h, w, channels] = pictures.nchw()?;
        if let Some(image) = image {
            expect_shape("the mean image", &image, &[3, h, w].into())?;
        }
        let [out_h, out_w] = self.output;
        if channels != 3 {
            return Err(format!("expected pictures [N, H, W, 3], got {pictures}"));
        }
        if out_h == 0 || out_w == 0 || (!matches!(self.crop, Crop::Resized { .. }) && (out_h > h || out_w > w)) {
            return Err(format!("cannot crop {out_h} x {out_w} out of pictures of {h} x {w}"));
        }
        if h.max(w) > 16_383 {
            return Err(format!("pictures of {h} x {w} are too large: at most 16383 pixels a side"));
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
            let number = (self.first_picture + n) as u32;
            let place = self.placement(random, number, [h, w]);
            let pixel = |i: usize, j: usize, c: usize| pictures.data[((n * h + i) * w + j) * 3 + c] / 255.0;
            let mean = |i: usize, j: usize, c: usize| match inputs.get(2) {
                Some(image) => image.data[(c * h + i) * w + j],
                None => self.mean[c] as f64,
            };
            let recolor = self.color.of(random, number, self.mean);
            let gone = erased(random, number, self.erase, self.output);
            for (i, j) in (0..out_h).flat_map(|i| (0..out_w).map(move |j| (i, j))) {
                if gone.iter().any(|gone| gone.contains(i, j)) {
                    continue; // zeros
                }
                let (top, bottom, fy) = place.taps(0, i, h);
                let (left, right, fx) = place.taps(1, if place.flip { out_w - 1 - j } else { j }, w);
                let (fy, fx) = (fy as f64, fx as f64);
                let sample = |of: &dyn Fn(usize, usize, usize) -> f64, c: usize| {
                    let upper = of(top, left, c) * (1.0 - fx) + of(top, right, c) * fx;
                    let lower = of(bottom, left, c) * (1.0 - fx) + of(bottom, right, c) * fx;
                    upper * (1.0 - fy) + lower * fy
                };
                let sampled = std::array::from_fn(|c| sample(&pixel, c));
                for (c, value) in recolor.apply(sampled).into_iter().enumerate() {
                    x.data[((n * 3 + c) * out_h + i) * out_w + j] = (value - sample(&mean, c)) / self.std[c] as f64;
                }
            }
        }
        vec![x]
    }

    fn scale(&self, inputs: &[Array], outputs: &[Array]) -> Vec<Array> {
        let mut scales = relative(outputs);
        let means = inputs.get(2).map_or(&[][..], |image| &image.data);
        let largest = means.iter().fold(0.0, |largest: f64, mean| largest.max(mean.abs()));
        let plane = self.output[0] * self.output[1];
        for (i, scale) in scales[0].data.iter_mut().enumerate() {
            let c = i / plane % 3;
            *scale += 2.0 * (largest + self.mean[c].abs() as f64) / self.std[c] as f64; // what the mean was taken off
            *scale += self.color.largest() / self.std[c] as f64; // and what colours were mixed of
        }
        scales
    }

    fn cases() -> Vec<Case> {
        let case = |name, crop, flip, n: usize, stored: [usize; 2], output: [usize; 2]| {
            let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
            let mean_image = false;
            let op =
                Augment { output, first_picture: 0, crop, flip, mean, mean_image, std, color: Color::NONE, erase: 0.0 };
            let pictures =
                CaseInput { ty: TensorType::new([n, stored[0], stored[1], 3], DType::U8), fill: Fill::Bytes };
            let terms = if matches!(crop, Crop::Resized { .. }) { 4 } else { 1 };
            Case::new(op, name, vec![pictures, CaseInput::counter()], terms).without_gradient()
        };
        let colored = |name, color: Color, erase| {
            let case = case(name, Crop::Resized { min_area: 0.25 }, true, 40, [24, 20], [19, 23]);
            let Op::Augment(op) = case.op else { unreachable!("it was made of one") };
            Case::new(Augment { color, erase, first_picture: 3, ..op }, name, case.inputs, 8)
        };
        let less_image = |name, case: Case| {
            let [n, h, w, _] = case.inputs[0].ty.shape[..] else { unreachable!("pictures have four axes") };
            let terms = if n == 40 { 12 } else { 8 };
            let inputs = case.inputs.into_iter().chain([image([h, w])]).collect();
            let Op::Augment(op) = case.op else { unreachable!("it was made of one") };
            Case::new(Augment { mean_image: true, ..op }, name, inputs, terms).without_gradient()
        };
        let many_erased = |name, n, size| {
            let case = case(name, Crop::Center, false, n, size, size);
            let Op::Augment(op) = case.op else { unreachable!("it was made of one") };
            Case::new(Augment { erase: 1.0, ..op }, name, case.inputs, 1).without_gradient()
        };
        let color = Color { brightness: 0.4, contrast: 0.3, saturation: 0.5, ..Color::NONE };
        let pca = [[0.02, -0.01, 0.005], [0.02, 0.001, -0.01], [0.019, 0.009, 0.006]];
        vec![
            colored("colour jitter", color, 0.0),
            colored("PCA jitter", Color { pca, ..Color::NONE }, 0.0),
            // So far that the numbers drawn show in all their digits.
            colored("one component", Color { pca: [[10.0, 0.0, 0.0], [0.0; 3], [0.0; 3]], ..Color::NONE }, 0.0),
            colored("erasing", Color::NONE, 0.5),
            // So many that some are erased up to the next pixel.
            many_erased("many erased", 12_000, [6, 37]),
            colored("all of it", Color { pca, ..color }, 1.0),
            less_image("mean image", case("", Crop::Center, false, 5, [13, 10], [8, 7])),
            less_image("mean image, random crop", case("", Crop::Random, true, 5, [13, 17], [11, 8])),
            less_image("mean image, all of it", colored("", Color { pca, ..color }, 0.5)),
            case("whole picture", Crop::Center, false, 5, [7, 5], [7, 5]),
            case("flip", Crop::Center, true, 5, [6, 9], [6, 9]),
            case("centre", Crop::Center, false, 5, [13, 11], [8, 7]),
            case("random crop and flip", Crop::Random, true, 5, [19, 23], [11, 8]),
            case("resized", Crop::Resized { min_area: 0.25 }, true, 5, [24, 20], [9, 13]),
            // So many that one of the areas is a square number.
            case("many resized", Crop::Resized { min_area: 0.25 }, false, 2000, [5, 4], [3, 3]),
            // Of the size that pictures are stored in.
            case("a batch of 64", Crop::Random, true, 64, [256, 256], [41, 37]),
            case("a large output", Crop::Resized { min_area: 0.25 }, true, 6, [256, 251], [224, 223]),
            case("resized up", Crop::Resized { min_area: 0.08 }, false, 5, [11, 15], [17, 19]),
        ]
    }

    fn random(draw: &mut Draw) -> Case {
        let (batch, stored) = (draw.between(1, 9), draw.pair(1, 40));
        let crop =
            draw.pick([Crop::Center, Crop::Random, Crop::Resized { min_area: 0.25 }, Crop::Resized { min_area: 1.0 }]);
        let output = match crop {
            Crop::Resized { .. } => draw.pair(1, 40),
            _ => stored.map(|extent| draw.between(1, extent)),
        };
        let (mean, std) = draw.pick([
            ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ([0.0; 3], [1.0; 3]),
            ([0.1, 0.5, 0.9], [0.5, 0.25, 2.0]),
        ]);
        let color = draw.pick([
            Color::NONE,
            Color { brightness: 0.9, contrast: 0.0, saturation: 0.4, pca: [[0.0; 3]; 3] },
            Color {
                brightness: 0.2,
                contrast: 0.9,
                saturation: 0.9,
                pca: [[0.1, 0.0, -0.2], [0.1; 3], [0.0, 0.3, 0.1]],
            },
        ]);
        let (flip, erase) = (draw.below(2) == 1, draw.pick([0.0, 0.25, 1.0]));
        let first_picture = draw.pick([0, 0, 1, 77]);
        let mean_image = draw.below(4) == 0;
        let op = Augment { output, first_picture, crop, flip, mean, mean_image, std, color, erase };
        let pictures =
            CaseInput { ty: TensorType::new([batch, stored[0], stored[1], 3], DType::U8), fill: Fill::Bytes };
        let image = mean_image.then(|| image(stored));
        let inputs = [pictures, CaseInput::counter()].into_iter().chain(image).collect();
        Case::new(op, "random", inputs, 8)
    }
}

/// A mean image of cases.
fn image(stored: [usize; 2]) -> CaseInput {
    CaseInput { ty: TensorType::f32([3, stored[0], stored[1]]), fill: Fill::Uniform(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The integers follow the formulas of [`Augment`].
    #[test]
    fn resized_crops_follow_their_formulas() {
        let (stored, output, min_area) = ([240usize, 310usize], [224, 200], 0.3_f64);
        let crop = Crop::Resized { min_area: min_area as f32 };
        let (mean, std) = ([0.0; 3], [1.0; 3]);
        let first_picture = 0;
        let (flip, mean_image, color) = (false, false, Color::NONE);
        let op = Augment { output, first_picture, crop, flip, mean, mean_image, std, color, erase: 0.0 };
        let random = Philox { seed: 3, stream: stream::AUGMENT, step: 9 };
        for n in 0..1000 {
            let [_, top, left, area] = random.block(2 * n).map(|word| unit(word) as f64);
            let aspect = unit(random.block(2 * n + 1)[0]) as f64;
            let [h, w] = stored.map(|extent| extent as f64);
            let area = h * w * (min_area + area * (1.0 - min_area));
            let ratio = ((2.0 * aspect - 1.0) * (4.0_f64 / 3.0).ln()).exp();
            let crop = [(area / ratio).sqrt().min(h), (area * ratio).sqrt().min(w)];
            let place = op.placement(random, n, stored);
            for (axis, u) in [top, left].into_iter().enumerate() {
                let step = crop[axis] / output[axis] as f64;
                let origin = u * (stored[axis] as f64 - crop[axis]) + 0.5 * step - 0.5;
                for (got, expected) in [(place.step[axis], step), (place.origin[axis], origin)] {
                    let got = got as f64 / ONE as f64;
                    assert!((got - expected).abs() < 0.02, "picture {n}, axis {axis}: {got}, expected {expected}");
                }
                let last = place.origin[axis] + (output[axis] as i32 - 1) * place.step[axis];
                assert!(place.origin[axis] >= -ONE / 2 && last <= stored[axis] as i32 * ONE - ONE / 2);
            }
        }
    }
}
