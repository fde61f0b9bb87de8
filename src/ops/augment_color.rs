//! What augmentation does to the colours of a picture, and which part of it is erased.

use super::augment::{fixed_side, half_aspect, multiply};
use crate::rng::{Philox, stream, unit};

/// Share of red, green and blue in brightness (ITU-R BT.601, as torchvision).
pub(crate) const LUMA: [f32; 3] = [0.299, 0.587, 0.114];
/// Smallest and largest part of a picture that is erased, in 1/65536 of its area: 2 and 33 % (Zhong et al., "Random erasing data
/// augmentation", 2017).
pub(crate) const ERASED: [u32; 2] = [1311, 21_627];
/// Mean and deviation of the sum of eight numbers of 16 bits.
const EIGHT: [f32; 2] = [8.0 * 32_767.5, 53_510.0];

/// What is done to the colours of pixels in [0, 1]; they are not cut off where they leave that range. Words of picture n:
/// `philox(seed, stream::COLOR, step)`, blocks 8n to 8n + 3.
///
/// The factors of brightness, contrast and saturation are `1 + (2u - 1) * strength`, u = `rng::unit` of the first, second and third word
/// of block 8n. Brightness multiplies; contrast multiplies the distance to the mean that normalisation takes off; saturation that to the
/// pixel's own brightness (by `LUMA`). Then principal components of the training pixels are added, as in the 2012 paper (section 4.1):
/// channel c gets `sum over k of pca[c][k] * a_k`. a_k is nearly normal, and the same on every device: the sum of the eight halves of
/// the words of block 8n + 1 + k, less its mean, by its deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Color {
    /// In [0, 1).
    pub brightness: f32,
    /// In [0, 1).
    pub contrast: f32,
    /// In [0, 1).
    pub saturation: f32,
    /// In column k the k-th principal component, as long as it is to vary.
    pub pca: [[f32; 3]; 3],
}

impl Color {
    /// Nothing.
    pub const NONE: Color = Color { brightness: 0.0, contrast: 0.0, saturation: 0.0, pca: [[0.0; 3]; 3] };

    /// The factors of brightness, contrast and saturation of picture n, and what is added to its channels.
    fn drawn(&self, random: Philox, n: u32) -> ([f64; 3], [f64; 3]) {
        let random = Philox { stream: stream::COLOR, ..random };
        let strengths = [self.brightness, self.contrast, self.saturation];
        let words = random.block(8 * n);
        let factors = std::array::from_fn(|i| 1.0 + (2.0 * unit(words[i]) as f64 - 1.0) * strengths[i] as f64);
        let normal: [f64; 3] = std::array::from_fn(|k| {
            let words = random.block(8 * n + 1 + k as u32);
            let sum: u32 = words.iter().map(|word| (word >> 16) + (word & 0xFFFF)).sum();
            (sum as f64 - EIGHT[0] as f64) / EIGHT[1] as f64
        });
        let added = self.pca.map(|row| row.iter().zip(normal).map(|(&component, a)| component as f64 * a).sum());
        (factors, added)
    }

    /// What is done to a pixel of picture n.
    pub(crate) fn of(&self, random: Philox, n: u32, mean: [f32; 3]) -> Recolor {
        let ([brightness, contrast, saturation], added) = self.drawn(random, n);
        // v -> (v * brightness - mean) * contrast + mean, whose distance to its luma is multiplied: a matrix and an offset.
        let luma = LUMA.map(f64::from);
        let offset = mean.map(|mean| mean as f64 * (1.0 - contrast));
        let offset_luma: f64 = (0..3).map(|c| luma[c] * offset[c]).sum();
        let row = |c: usize| {
            std::array::from_fn(|from| {
                let own = if from == c { saturation } else { 0.0 };
                brightness * contrast * (own + (1.0 - saturation) * luma[from])
            })
        };
        Recolor {
            matrix: std::array::from_fn(row),
            offset: std::array::from_fn(|c| saturation * offset[c] + (1.0 - saturation) * offset_luma + added[c]),
        }
    }

    /// A bound of what the sums behind a colour hold.
    pub(super) fn largest(&self) -> f64 {
        if *self == Color::NONE {
            return 0.0;
        }
        let factors = [self.brightness, self.contrast, self.saturation].map(|strength| 1.0 + strength as f64);
        let added = self.pca.iter().flatten().map(|&component| 5.0 * component.abs() as f64).sum::<f64>();
        2.0 * factors.iter().product::<f64>() + added
    }
}

/// A map of colours.
pub(crate) struct Recolor {
    /// By row: what a channel gets of red, green, blue.
    pub matrix: [[f64; 3]; 3],
    pub offset: [f64; 3],
}

impl Recolor {
    pub fn apply(&self, color: [f64; 3]) -> [f64; 3] {
        std::array::from_fn(|c| self.offset[c] + (0..3).map(|from| self.matrix[c][from] * color[from]).sum::<f64>())
    }

    /// The same for colours that are normalised before and after.
    pub fn normalised(&self, mean: [f32; 3], std: [f32; 3]) -> Recolor {
        let (mean, std) = (mean.map(f64::from), std.map(f64::from));
        let shifted = self.apply(mean);
        Recolor {
            matrix: std::array::from_fn(|c| std::array::from_fn(|from| self.matrix[c][from] * std[from] / std[c])),
            offset: std::array::from_fn(|c| (shifted[c] - mean[c]) / std[c]),
        }
    }
}

/// A part of a picture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub top: u32,
    pub left: u32,
    pub height: u32,
    pub width: u32,
}

impl Part {
    pub fn contains(&self, row: usize, column: usize) -> bool {
        let within = |at: usize, first: u32, extent: u32| (first..first + extent).contains(&(at as u32));
        within(row, self.top, self.height) && within(column, self.left, self.width)
    }
}

/// The shader's probability of erasing, in 1/65536.
pub(crate) fn fixed_probability(erase: f32) -> u32 {
    (erase * 65_536.0).round() as u32
}

/// The part that is erased of picture n of `output` pixels, with probability `erase`. By the words of block 8n + 4 of
/// `philox(seed, stream::COLOR, step)`: whether, area (uniform within [`ERASED`]), ratio of height to width (0.316 to 3.16, uniform in
/// its logarithm), and in its halves the place. All in integers, as [`super::Augment`]'s crops.
pub(crate) fn erased(random: Philox, n: u32, erase: f32, output: [usize; 2]) -> Option<Part> {
    let [whether, area, ratio, place] = Philox { stream: stream::COLOR, ..random }.block(8 * n + 4);
    if whether >> 16 >= fixed_probability(erase) {
        return None;
    }
    let area = ERASED[0] + multiply(ERASED[1] - ERASED[0], area >> 16, 16);
    let side = multiply(fixed_side(output), (area << 16).isqrt(), 16);
    let t = (ratio >> 16) as i32 - 32_768;
    let extent = |t: i32, within: usize| {
        let square = multiply(half_aspect(t), half_aspect(t), 15);
        let fourth = multiply(square, square, 15); // of the side, by the fourth root of a ratio to the fourth
        (multiply(side, fourth, 15) >> 16).clamp(1, within as u32)
    };
    let (height, width) = (extent(t, output[0]), extent(-t, output[1]));
    let pick = |half: u32, room: u32| (half * (room + 1)) >> 16;
    Some(Part {
        top: pick(place >> 16, output[0] as u32 - height),
        left: pick(place & 0xFFFF, output[1] as u32 - width),
        height,
        width,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: Philox = Philox { seed: 5, stream: stream::AUGMENT, step: 2 };

    /// One step after the other, as the text says.
    #[test]
    fn the_matrix_is_the_steps() {
        let color =
            Color { brightness: 0.4, contrast: 0.6, saturation: 0.8, pca: [[0.1, 0.2, 0.0], [0.0; 3], [0.3; 3]] };
        let mean = [0.5, 0.4, 0.3];
        for n in 0..50 {
            let ([brightness, contrast, saturation], added) = color.drawn(RANDOM, n);
            let pixel = [0.9, 0.2, 0.4];
            let lit: [f64; 3] =
                std::array::from_fn(|c| (pixel[c] * brightness - mean[c] as f64) * contrast + mean[c] as f64);
            let luma: f64 = (0..3).map(|c| LUMA[c] as f64 * lit[c]).sum();
            let expected: [f64; 3] = std::array::from_fn(|c| luma + (lit[c] - luma) * saturation + added[c]);
            let recolor = color.of(RANDOM, n, mean);
            let std = [0.2, 0.3, 0.4];
            let normal = |v: [f64; 3]| std::array::from_fn(|c| (v[c] - mean[c] as f64) / std[c] as f64);
            let after = recolor.normalised(mean, std).apply(normal(pixel));
            for c in 0..3 {
                assert!((recolor.apply(pixel)[c] - expected[c]).abs() < 1e-6, "picture {n}, channel {c}");
                assert!((after[c] - normal(expected)[c]).abs() < 1e-5, "picture {n}, channel {c}, normalised");
            }
        }
    }

    #[test]
    fn what_is_drawn_is_nearly_normal_and_of_the_strength() {
        let color = Color { brightness: 0.4, pca: [[1.0, 0.0, 0.0], [0.0; 3], [0.0; 3]], ..Color::NONE };
        let drawn: Vec<_> = (0..20_000).map(|n| color.drawn(RANDOM, n)).collect();
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let moment = |power: i32| mean(drawn.iter().map(|(_, added)| added[0].powi(power)).collect());
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.03, "{}, {}", moment(1), moment(2));
        assert!((moment(4) - 2.85).abs() < 0.2, "{}: 3 for a normal one, 3 - 1.2 / 8 for a sum of eight", moment(4));
        assert!(drawn.iter().all(|(factors, _)| (0.6..1.4).contains(&factors[0]) && factors[1] == 1.0));
        let variance = mean(drawn.iter().map(|(factors, _)| (factors[0] - 1.0).powi(2)).collect());
        assert!((variance - 0.16 / 3.0).abs() < 0.002, "{variance}");
    }

    #[test]
    fn erased_parts_are_inside_and_of_their_sizes() {
        let output = [224, 200];
        let parts: Vec<Part> = (0..4000).filter_map(|n| erased(RANDOM, n, 0.25, output)).collect();
        assert!(parts.len().abs_diff(1000) < 100, "{}", parts.len());
        let share = |part: &Part| (part.height * part.width) as f64 / (224.0 * 200.0);
        for part in &parts {
            assert!(part.top + part.height <= 224 && part.left + part.width <= 200, "{part:?}");
            let ratio = part.height as f64 / part.width as f64;
            assert!((0.017..0.331).contains(&share(part)) && (0.29..3.4).contains(&ratio), "{part:?}");
        }
        let mean = parts.iter().map(share).sum::<f64>() / parts.len() as f64;
        assert!((mean - 0.175).abs() < 0.01, "{mean}");
        assert!(parts.iter().any(|part| part.top == 0) && parts.iter().any(|part| part.top > 150));
        assert!(
            (0..4000).all(|n| erased(RANDOM, n, 1.0, [3, 1]).is_some() && erased(RANDOM, n, 0.0, output).is_none())
        );
    }
}
