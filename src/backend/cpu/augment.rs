//! From u8 pictures to normalised f32 planes: crop, resample, flip, normalise, recolour, erase.

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use crate::ops::augment::{ONE, Placement};
use crate::ops::augment_color::{Part, Recolor, erased};
use crate::ops::{Augment, Color, Crop};
use crate::rng::{Philox, stream};

impl CpuOp for Augment {
    fn run(&self, mut io: Io) {
        let (pictures, counter, x) = (io.u8(0), io.u32(1), io.output(0));
        let mean_image = (io.inputs() > 2).then(|| io.f32(2));
        let [h, w] = [io.shape(0)[1], io.shape(0)[2]];
        let seed = counter[0] as u64 | (counter[1] as u64) << 32;
        let random = Philox { seed, stream: stream::AUGMENT, step: counter[2] };
        let plane = self.output[0] * self.output[1];
        x.par_chunks_mut(3 * plane).zip(pictures.par_chunks(h * w * 3)).enumerate().for_each(|(n, (x, picture))| {
            let n = (self.first_picture + n) as u32;
            let place = self.placement(random, n, [h, w]);
            if let Crop::Resized { .. } = self.crop {
                self.resample(x, picture, [h, w], &place);
            } else {
                self.copy(x, picture, w, &place);
            }
            if self.color != Color::NONE {
                recolor(x, &self.color.of(random, n, self.mean).normalised(self.mean, self.std));
            }
            if let Some(image) = mean_image {
                self.subtract(x, image, [h, w], &place);
            }
            if let Some(part) = erased(random, n, self.erase, self.output) {
                erase(x, self.output, part);
            }
        });
    }
}

impl Augment {
    /// An unscaled crop: every value is one of 256, so a table does the arithmetic.
    fn copy(&self, x: &mut [f32], picture: &[u8], w: usize, place: &Placement) {
        let [out_h, out_w] = self.output;
        let [top, left] = place.origin.map(|at| (at / ONE) as usize);
        for (c, x) in x.chunks_mut(out_h * out_w).enumerate() {
            let table: [f32; 256] = std::array::from_fn(|v| (v as f32 / 255.0 - self.mean[c]) / self.std[c]);
            for (i, x) in x.chunks_mut(out_w).enumerate() {
                let row = picture[((top + i) * w + left) * 3..][..out_w * 3].as_chunks::<3>().0;
                let values = row.iter().map(|pixel| table[pixel[c] as usize]);
                if place.flip {
                    x.iter_mut().rev().zip(values).for_each(|(x, value)| *x = value);
                } else {
                    x.iter_mut().zip(values).for_each(|(x, value)| *x = value);
                }
            }
        }
    }

    /// A crop that is resampled bilinearly.
    fn resample(&self, x: &mut [f32], picture: &[u8], [h, w]: [usize; 2], place: &Placement) {
        let [out_h, out_w] = self.output;
        let scale: [f32; 3] = std::array::from_fn(|c| 1.0 / (255.0 * self.std[c]));
        let shift: [f32; 3] = std::array::from_fn(|c| self.mean[c] / self.std[c]);
        for i in 0..out_h {
            let (top, bottom, fy) = place.taps(0, i, h);
            let (upper, lower) = (&picture[top * w * 3..][..w * 3], &picture[bottom * w * 3..][..w * 3]);
            for j in 0..out_w {
                let (left, right, fx) = place.taps(1, if place.flip { out_w - 1 - j } else { j }, w);
                for c in 0..3 {
                    let mix = |row: &[u8]| row[left * 3 + c] as f32 * (1.0 - fx) + row[right * 3 + c] as f32 * fx;
                    let value = mix(upper) * (1.0 - fy) + mix(lower) * fy;
                    x[(c * out_h + i) * out_w + j] = value * scale[c] - shift[c];
                }
            }
        }
    }

    /// Takes the mean image off in place of the mean, which is off already.
    fn subtract(&self, x: &mut [f32], image: &[f32], [h, w]: [usize; 2], place: &Placement) {
        let [out_h, out_w] = self.output;
        for ((c, x), image) in x.chunks_mut(out_h * out_w).enumerate().zip(image.chunks(h * w)) {
            for (i, x) in x.chunks_mut(out_w).enumerate() {
                let (top, bottom, fy) = place.taps(0, i, h);
                let (upper, lower) = (&image[top * w..][..w], &image[bottom * w..][..w]);
                for (j, x) in x.iter_mut().enumerate() {
                    let (left, right, fx) = place.taps(1, if place.flip { out_w - 1 - j } else { j }, w);
                    let mix = |row: &[f32]| row[left] * (1.0 - fx) + row[right] * fx;
                    let mean = mix(upper) * (1.0 - fy) + mix(lower) * fy;
                    *x -= (mean - self.mean[c]) / self.std[c];
                }
            }
        }
    }
}

/// Maps the colours of three planes.
fn recolor(x: &mut [f32], map: &Recolor) {
    let (matrix, offset) = (map.matrix.map(|row| row.map(|v| v as f32)), map.offset.map(|v| v as f32));
    let plane = x.len() / 3;
    let (red, others) = x.split_at_mut(plane);
    let (green, blue) = others.split_at_mut(plane);
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let mixed = |c: usize| matrix[c][0] * *red + matrix[c][1] * *green + matrix[c][2] * *blue + offset[c];
        (*red, *green, *blue) = (mixed(0), mixed(1), mixed(2));
    }
}

/// Zeros a part of three planes of `[height, width]`.
fn erase(x: &mut [f32], [height, width]: [usize; 2], part: Part) {
    let (first, columns) = (part.left as usize, part.width as usize);
    for plane in x.chunks_mut(height * width) {
        for row in plane.chunks_mut(width).skip(part.top as usize).take(part.height as usize) {
            row[first..first + columns].fill(0.0);
        }
    }
}
