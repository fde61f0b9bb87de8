//! Large JPEGs at a part of their size, by jpeg-decoder: it transforms only the low frequencies that a smaller picture shows, which
//! zune-jpeg cannot.

use jpeg_decoder::{Decoder, PixelFormat};

/// A JPEG at 1/8 or 1/4 of its size.
pub struct Reduced {
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    /// u8 `[height, width, 3]`.
    pub rgb: Vec<u8>,
    /// Exif data, from the byte order mark on.
    pub exif: Option<Vec<u8>>,
}

/// Decodes a JPEG at the smallest of these scales that leaves both sides at least `side` pixels. `None` where neither does, the file
/// is broken, or its pixels are other than RGB or grey.
pub fn reduced(bytes: &[u8], side: usize) -> Option<Reduced> {
    let mut decoder = Decoder::new(bytes);
    decoder.read_info().ok()?;
    let info = decoder.info()?;
    let scaled = |length: u16, eighths: usize| (usize::from(length) * eighths).div_ceil(8);
    let fits = |eighths: &usize| scaled(info.width, *eighths).min(scaled(info.height, *eighths)) >= side;
    let eighths = [1, 2].into_iter().find(fits)?;
    let size = [info.width, info.height].map(|length| scaled(length, eighths));
    let (width, height) = decoder.scale(size[0] as u16, size[1] as u16).ok()?;
    if [width, height].map(usize::from) != size {
        return None;
    }
    let samples = decoder.decode().ok()?;
    let rgb = match info.pixel_format {
        PixelFormat::RGB24 => samples,
        PixelFormat::L8 => samples.into_iter().flat_map(|grey| [grey; 3]).collect(),
        _ => return None,
    };
    let exif = decoder.exif_data().map(Into::into);
    Some(Reduced { width: width.into(), height: height.into(), rgb, exif })
}
