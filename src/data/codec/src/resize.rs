//! Resizing, by fast_image_resize. Only one of its kinds of pixels is named, so only that one is compiled: all of them would take a minute.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions};

/// Resizes one picture after the other in the same memory.
#[derive(Default)]
pub struct Resizer(fast_image_resize::Resizer);

/// RGB pixels, u8 `[height, width, 3]`.
#[derive(Clone, Copy)]
pub struct Picture<'a> {
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    /// All of them.
    pub rgb: &'a [u8],
}

impl Resizer {
    /// The part `[left, top, width, height]` of `picture` into `pixels`, u8 `[h, w, 3]` for `size` = `[h, w]`, by a triangle filter as
    /// wide as the reduction.
    ///
    /// # Errors
    /// When a buffer is too small, or the part is not inside.
    pub fn resize(
        &mut self,
        picture: Picture,
        part: [usize; 4],
        size: [usize; 2],
        pixels: &mut [u8],
    ) -> Result<(), String> {
        let side = |side: usize| u32::try_from(side).map_err(|error| error.to_string());
        let stored = TypedImageRef::<U8x3>::from_buffer(side(picture.width)?, side(picture.height)?, picture.rgb);
        let stored = stored.map_err(|error| error.to_string())?;
        let resized = TypedImage::<U8x3>::from_buffer(side(size[1])?, side(size[0])?, pixels);
        let mut resized = resized.map_err(|error| error.to_string())?;
        let [left, top, width, height] = part.map(|pixels| pixels as f64);
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .crop(left, top, width, height);
        self.0.resize_typed(&stored, &mut resized, &options).map_err(|error| error.to_string())
    }
}
