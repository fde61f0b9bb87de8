//! From u8 pictures to normalised f32 planes on the device: crop, resample, flip, normalise, in one pass.

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

/// Inputs: pictures u8 [N, H, W, 3] (RGB), counter u32 [4] = [seed low, seed high, step, 0]. Output: x f32 [N, 3, h, w],
/// x[n,c,i,j] = (value / 255 - mean[c]) / std[c].
///
/// Random words of picture n are `philox(seed, stream::AUGMENT, step).block(2n)` = [flip, top, left, area] and
/// `.block(2n + 1)` = [aspect, ..]; u = `rng::unit(word)`.
/// Flip when `flip` is set and u_flip < 0.5: column j reads column w-1-j.
/// Center: top = floor((H-h)/2), left = floor((W-w)/2). Random: top = floor(u_top * (H-h+1)), left = floor(u_left * (W-w+1)).
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
