//! JPEG, by zune-jpeg: and what that decoder does not say, that a file ends early or is of a layout that it misreads.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

use super::pixels::{Refused, Stored, check_size};

/// The pixels of a JPEG file, CMYK and YCCK as RGB.
pub(super) fn jpeg(bytes: &[u8]) -> Result<Stored, Refused> {
    let layout = JpegLayout::of(bytes).unwrap_or_default();
    if layout.misread() {
        return Err(Refused::because(
            "a JPEG of an unusual layout (channels apart or finer colour than brightness); save it anew",
        ));
    }
    if layout.has_end {
        return jpeg_samples(bytes);
    }
    if layout.progressive {
        return Err(Refused::Truncated); // whole scans may be missing
    }
    // Without an end marker, all is well if nothing else is missing (some cameras leave it out): then no pixel depends on what
    // follows.
    let kept = bytes.strip_suffix(&[0xFF]).unwrap_or(bytes); // half of the marker
    let with = |between: &[u8]| jpeg_samples(&[kept, between, &[0xFF, 0xD9]].concat());
    let completed = with(&[]).map_err(|refused| match refused {
        Refused::Because(reason) if reason.starts_with("claims") => Refused::Because(reason),
        _ => Refused::Truncated,
    })?;
    let same = |padding: u8| with(&[padding; 64]).is_ok_and(|other| other.samples == completed.samples);
    if [0x55, 0xAA, 0x00].into_iter().all(same) { Ok(completed) } else { Err(Refused::Truncated) }
}

/// The decoder fills up what is missing with grey and says nothing.
fn jpeg_samples(bytes: &[u8]) -> Result<Stored, Refused> {
    // CMYK and YCCK come out as RGB too, Adobe's inverted inks turned.
    let options = DecoderOptions::default().set_strict_mode(false).jpeg_set_out_colorspace(ColorSpace::RGB);
    let options = options.set_max_width(usize::MAX).set_max_height(usize::MAX); // check_size is the limit
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(Refused::because)?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    check_size(width, height)?;
    let samples = decoder.decode().map_err(Refused::because)?;
    Ok(Stored { width, height, channels: 3, samples, exif: decoder.exif().cloned() })
}

/// What a JPEG's segments say of how it is stored.
#[derive(Default)]
struct JpegLayout {
    progressive: bool,
    /// Sampling factors of each component, horizontal and vertical.
    factors: Vec<[u8; 2]>,
    /// Components in the first scan.
    scanned: usize,
    /// Whether an end marker follows the pixels.
    has_end: bool,
}

impl JpegLayout {
    /// `None` where the segments in front of the pixels make no sense.
    fn of(bytes: &[u8]) -> Option<Self> {
        const START_OF_SCAN: u8 = 0xDA;
        let mut layout = JpegLayout::default();
        let mut at = 2;
        // Over the segments in front, for the EXIF one may hold a whole thumbnail with an end marker of its own.
        while let Some(&[0xFF, marker, high, low]) = bytes.get(at..at + 4) {
            let length = u16::from_be_bytes([high, low]) as usize;
            let segment = bytes.get(at + 4..(at + 2 + length).min(bytes.len()))?;
            match marker {
                START_OF_SCAN => {
                    layout.scanned = *segment.first()? as usize;
                    break;
                }
                0xFF => at += 1, // fill byte
                0xC0..=0xC2 => {
                    // Precision, height and width, number of components; of each: name, factors, table.
                    layout.progressive = marker == 0xC2;
                    let components = segment.get(6..)?.as_chunks::<3>().0;
                    layout.factors = components.iter().map(|&[_, factors, _]| [factors >> 4, factors & 15]).collect();
                    at += 2 + length;
                }
                _ => at += 2 + length,
            }
        }
        layout.has_end = bytes.get(at..)?.windows(2).rev().any(|pair| pair == [0xFF, 0xD9]);
        Some(layout)
    }

    /// Whether zune-jpeg (0.5) gives wrong pixels without an error: components in sequential scans of their own, or colour
    /// that is sampled more finely than brightness.
    fn misread(&self) -> bool {
        let apart = !self.progressive && self.scanned < self.factors.len();
        let finer = self.factors.iter().skip(1).any(|other| (0..2).any(|axis| other[axis] > self.factors[0][axis]));
        apart || finer
    }
}
