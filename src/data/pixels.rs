//! The pixels of a picture file: JPEG, PNG, WebP, BMP or GIF, as its content says.

use std::fmt::{self, Display};

use super::bmp::Bmp;
use super::format::Format;
use super::jpeg::{JpegLayout, jpeg};
use super::memory::MOST_OF_PICTURE;
use super::{orientation, raster};

/// A picture that claims more is not decoded.
const MAX_MEGAPIXELS: usize = 100;

/// RGB pixels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pixels {
    pub width: usize,
    pub height: usize,
    /// `[height, width, 3]`.
    pub rgb: Vec<u8>,
    /// What is missing.
    pub damage: Option<Damage>,
}

/// What is missing of a picture that is used all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// A JPEG that ends early: this share of its rows is there, in percent, half of them at least; the others are grey.
    Rows(u8),
    /// A progressive JPEG that ends early: all of it, but coarser than it was.
    Scans,
}

impl Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Rows(percent) => write!(f, "truncated JPEG: {percent} % of its rows are there, the others grey"),
            Damage::Scans => f.write_str("truncated JPEG: all of it is there, but not its finest detail"),
        }
    }
}

impl Pixels {
    /// All pixels of a picture file, upright as its EXIF orientation says, transparent parts over white, 16-bit channels
    /// rounded to 8, the first frame of an animation.
    ///
    /// # Errors
    /// A short reason, such as `truncated PNG`.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        Self::read_for(bytes, usize::MAX)
    }

    /// The same for a picture of `wanted` pixels on its longer side: of a JPEG that is much larger, a smaller one.
    ///
    /// # Errors
    /// As [`Pixels::read`].
    pub(super) fn read_for(bytes: &[u8], wanted: usize) -> Result<Self, String> {
        let format = Format::of(bytes)?;
        let needed = Pixels::memory(bytes);
        if needed > MOST_OF_PICTURE {
            let mib = |bytes: usize| bytes >> 20;
            return Err(format!("takes {} MiB of memory to decode, more than {}", mib(needed), mib(MOST_OF_PICTURE)));
        }
        let stored = match format {
            Format::Jpeg => jpeg(bytes, wanted),
            Format::Png => raster::png(bytes),
            Format::WebP => raster::webp(bytes),
            Format::Bmp => raster::bmp(bytes),
            Format::Gif => raster::gif(bytes),
        };
        match stored {
            Ok(stored) => Ok(stored.upright()),
            Err(Refused::Truncated) => Err(format!("truncated {format}")),
            Err(Refused::Because(reason)) => {
                Err(reason.lines().next().unwrap_or_default().trim_matches('"').to_string())
            }
        }
    }

    /// About how many bytes [`Pixels::read`] will need, as the file's header has it: 0 where it makes no sense.
    pub(super) fn memory(bytes: &[u8]) -> usize {
        let number = |at: usize, length: usize| -> usize {
            let digits = bytes.get(at..at + length).unwrap_or_default();
            digits.iter().fold(0, |number, &digit| number << 8 | digit as usize)
        };
        let [width, height, bytes_per_pixel] = match Format::of(bytes) {
            // Progressive ones keep all coefficients until the end; what is turned is there twice.
            Ok(Format::Jpeg) => JpegLayout::of(bytes).map_or([0; 3], |jpeg| {
                let coefficients = if jpeg.progressive { 2 * jpeg.factors.len() } else { 0 };
                [jpeg.width, jpeg.height, 3 + coefficients.max(if jpeg.turned { 3 } else { 0 })]
            }),
            Ok(Format::Png) => [number(16, 4), number(20, 4), if number(24, 1) == 16 { 12 } else { 7 }],
            Ok(Format::Gif) => {
                let [width, height] = [6, 8].map(|at| (number(at, 2) as u16).swap_bytes() as usize); // lowest byte first
                [width, height, 11]
            }
            Ok(Format::Bmp) => Bmp::new(bytes).map_or([0; 3], |bmp| [bmp.width, bmp.height, 8]),
            Ok(Format::WebP) => image_webp::WebPDecoder::new(std::io::Cursor::new(bytes)).map_or([0; 3], |webp| {
                let (width, height) = webp.dimensions();
                [width as usize, height as usize, 11]
            }),
            Err(_) => [0; 3],
        };
        let pixels = width.saturating_mul(height);
        if pixels > MAX_MEGAPIXELS * 1_000_000 { 0 } else { pixels * bytes_per_pixel }
    }
}

/// Why a decoder gave up.
pub(super) enum Refused {
    Truncated,
    Because(String),
}

impl Refused {
    pub(super) fn because(reason: impl Display) -> Self {
        Self::Because(reason.to_string())
    }
}

/// Pixels as a decoder gives them.
pub(super) struct Stored {
    pub width: usize,
    pub height: usize,
    /// Grey, grey and alpha, RGB, RGBA: 1 to 4.
    pub channels: usize,
    /// `[height, width, channels]`.
    pub samples: Vec<u8>,
    /// EXIF block, TIFF header first.
    pub exif: Option<Vec<u8>>,
    /// What is missing.
    pub damage: Option<Damage>,
}

impl Stored {
    fn upright(self) -> Pixels {
        // A broken EXIF block says nothing about the pixels.
        let orientation = self.exif.as_deref().and_then(orientation::of_exif).unwrap_or(1);
        if (self.channels, orientation) == (3, 1) {
            return Pixels { width: self.width, height: self.height, rgb: self.samples, damage: self.damage };
        }
        match self.channels {
            1 => self.turned::<1>(orientation),
            2 => self.turned::<2>(orientation),
            3 => self.turned::<3>(orientation),
            _ => self.turned::<4>(orientation),
        }
    }
}

/// An error for a picture of no pixels, or of more than are decoded.
pub(super) fn check_size(width: usize, height: usize) -> Result<(), Refused> {
    let pixels = width.saturating_mul(height);
    if pixels == 0 {
        return Err(Refused::because(format!("claims {width} x {height} pixels")));
    }
    if pixels > MAX_MEGAPIXELS * 1_000_000 {
        let megapixels = pixels.div_ceil(1_000_000);
        return Err(Refused::because(format!(
            "claims {width} x {height} = {megapixels} megapixels, more than {MAX_MEGAPIXELS}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
