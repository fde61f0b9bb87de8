//! PNG, WebP, BMP and GIF to samples, each by its crate.

use std::io::{Cursor, ErrorKind};
use std::num::NonZeroU64;

use super::bmp::Bmp;
use super::pixels::{Refused, Stored, check_size};

/// Enough for a hundred million pixels of 16-bit RGBA.
const MAX_BYTES: NonZeroU64 = NonZeroU64::new(1 << 30).unwrap();

pub(super) fn png(bytes: &[u8]) -> Result<Stored, Refused> {
    use png::ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
    let failed = |error: png::DecodingError| match error {
        png::DecodingError::IoError(error) => io(error),
        error => Refused::because(error),
    };
    let mut decoder =
        png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MAX_BYTES.get() as usize });
    decoder.set_transformations(png::Transformations::EXPAND); // palettes and 1, 2 or 4 bits to 8 bits
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(failed)?;
    check_size(header.width as usize, header.height as usize)?;
    let mut reader = decoder.read_info().map_err(failed)?;
    let mut samples = vec![0; reader.output_buffer_size().ok_or_else(|| Refused::because("too large"))?];
    let frame = reader.next_frame(&mut samples).map_err(failed)?;
    let _ = reader.finish(); // an EXIF block may stand behind the pixels; what else is wrong there does them no harm
    samples.truncate(frame.buffer_size());
    let channels = match frame.color_type {
        Grayscale => 1,
        GrayscaleAlpha => 2,
        Rgb | Indexed => 3,
        Rgba => 4,
    };
    if frame.bit_depth == png::BitDepth::Sixteen {
        let round = |pair: &[u8]| ((u16::from_be_bytes([pair[0], pair[1]]) as u32 + 128) / 257) as u8;
        samples = samples.chunks_exact(2).map(round).collect();
    }
    let exif = reader.info().exif_metadata.as_deref().map(<[u8]>::to_vec);
    Ok(Stored { width: frame.width as usize, height: frame.height as usize, channels, samples, exif, damage: None })
}

pub(super) fn webp(bytes: &[u8]) -> Result<Stored, Refused> {
    let failed = |error: image_webp::DecodingError| match error {
        image_webp::DecodingError::IoError(error) => io(error),
        error => Refused::because(error),
    };
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(bytes)).map_err(failed)?;
    let (width, height) = decoder.dimensions();
    check_size(width as usize, height as usize)?;
    decoder.set_memory_limit(MAX_BYTES.get() as usize);
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut samples = vec![0; width as usize * height as usize * channels];
    decoder.read_image(&mut samples).map_err(failed)?;
    let exif = decoder.exif_metadata().unwrap_or_default();
    Ok(Stored { width: width as usize, height: height as usize, channels, samples, exif, damage: None })
}

pub(super) fn bmp(bytes: &[u8]) -> Result<Stored, Refused> {
    let failed = |reason: Option<String>| reason.map_or(Refused::Truncated, Refused::Because);
    let bmp = Bmp::new(bytes).map_err(failed)?;
    check_size(bmp.width, bmp.height)?;
    let samples = bmp.rgba().map_err(failed)?;
    Ok(Stored { width: bmp.width, height: bmp.height, channels: 4, samples, exif: None, damage: None })
}

pub(super) fn gif(bytes: &[u8]) -> Result<Stored, Refused> {
    let failed = |error: gif::DecodingError| match error {
        gif::DecodingError::UnexpectedEof => Refused::Truncated,
        gif::DecodingError::Io(error) => io(error),
        error => Refused::because(error),
    };
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
    options.check_frame_consistency(true); // a frame is not larger than the screen, whose size is known before
    options.set_memory_limit(gif::MemoryLimit::Bytes(MAX_BYTES));
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(failed)?;
    let (width, height) = (decoder.width() as usize, decoder.height() as usize);
    check_size(width, height)?;
    let frame = decoder.read_next_frame().map_err(failed)?.ok_or(Refused::Truncated)?;
    check_size(frame.width as usize, frame.height as usize)?;
    // The first frame may cover a part of the screen only; the rest is transparent.
    let mut samples = vec![0; width * height * 4];
    let (left, top) = ((frame.left as usize).min(width), frame.top as usize);
    let row_bytes = (frame.width as usize).max(1) * 4;
    for (row, pixels) in frame.buffer.chunks_exact(row_bytes).enumerate().take(height.saturating_sub(top)) {
        let start = ((top + row) * width + left) * 4;
        let seen = row_bytes.min((width - left) * 4);
        samples[start..start + seen].copy_from_slice(&pixels[..seen]);
    }
    Ok(Stored { width, height, channels: 4, samples, exif: None, damage: None })
}

fn io(error: std::io::Error) -> Refused {
    if error.kind() == ErrorKind::UnexpectedEof { Refused::Truncated } else { Refused::because(error) }
}
