//! The pixels of a picture file: JPEG, PNG, WebP, BMP or GIF, as its content says.

use std::fmt::{self, Display};
use std::io::{Cursor, ErrorKind};
use std::num::NonZeroU64;

use super::bmp::Bmp;
use super::jpeg::jpeg;

/// A picture that claims more is not decoded.
const MAX_MEGAPIXELS: usize = 100;
/// Enough for that many pixels of 16-bit RGBA.
pub(super) const MAX_BYTES: NonZeroU64 = NonZeroU64::new(1 << 30).unwrap();
/// As many first bytes as [`Format::of`] looks at.
pub(super) const MAGIC_BYTES: usize = 32;

/// The formats that are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
    Bmp,
    Gif,
}

impl Format {
    /// The format that the first bytes show, or why they are no picture that can be read.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, String> {
        let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|bytes| bytes.starts_with(magic));
        let others: [(usize, &[u8], &str); 7] = [
            (4, b"ftyp", "HEIC or AVIF"),
            (0, b"II*\0", "TIFF"),
            (0, b"MM\0*", "TIFF"),
            (0, b"\0\0\0\x0CJXL ", "JPEG XL"),
            (0, b"\xFF\x0A", "JPEG XL"),
            (0, b"\0\0\0\x0CjP  ", "JPEG 2000"),
            (0, b"8BPS", "PSD"),
        ];
        if bytes.is_empty() {
            Err("empty file".to_string())
        } else if at(0, b"\xFF\xD8\xFF") {
            Ok(Self::Jpeg)
        } else if at(0, b"\x89PNG\r\n\x1A\n") {
            Ok(Self::Png)
        } else if at(0, b"RIFF") && at(8, b"WEBP") {
            Ok(Self::WebP)
        } else if at(0, b"GIF87a") || at(0, b"GIF89a") {
            Ok(Self::Gif)
        } else if at(0, b"BM") && at(15, &[0; 3]) {
            Ok(Self::Bmp) // "BM" alone may begin a text: the size of the header after it is small, so its upper bytes are 0
        } else if let Some((_, _, name)) = others.iter().find(|&&(offset, magic, _)| at(offset, magic)) {
            Err(format!("{name} is not supported; convert it to JPEG, PNG, WebP, BMP or GIF"))
        } else {
            Err(format!("not a picture: begins with '{}'", bytes[..bytes.len().min(12)].escape_ascii()))
        }
    }
}

impl Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Gif => "GIF",
        })
    }
}

/// RGB pixels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pixels {
    pub width: usize,
    pub height: usize,
    /// `[height, width, 3]`.
    pub rgb: Vec<u8>,
}

impl Pixels {
    /// All pixels of a picture file, upright as its EXIF orientation says, transparent parts over white, 16-bit channels
    /// rounded to 8, the first frame of an animation.
    ///
    /// # Errors
    /// A short reason, such as `truncated JPEG`.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let format = Format::of(bytes)?;
        let stored = match format {
            Format::Jpeg => jpeg(bytes),
            Format::Png => png(bytes),
            Format::WebP => webp(bytes),
            Format::Bmp => bmp(bytes),
            Format::Gif => gif(bytes),
        };
        match stored {
            Ok(stored) => Ok(stored.upright()),
            Err(Refused::Truncated) => Err(format!("truncated {format}")),
            Err(Refused::Because(reason)) => {
                Err(reason.lines().next().unwrap_or_default().trim_matches('"').to_string())
            }
        }
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

    fn io(error: std::io::Error) -> Self {
        if error.kind() == ErrorKind::UnexpectedEof { Self::Truncated } else { Self::because(error) }
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
}

impl Stored {
    fn upright(self) -> Pixels {
        // A broken EXIF block says nothing about the pixels.
        let orientation = self.exif.as_deref().and_then(exif_orientation).unwrap_or(1);
        if (self.channels, orientation) == (3, 1) {
            return Pixels { width: self.width, height: self.height, rgb: self.samples };
        }
        match self.channels {
            1 => self.turned::<1>(orientation),
            2 => self.turned::<2>(orientation),
            3 => self.turned::<3>(orientation),
            _ => self.turned::<4>(orientation),
        }
    }

    /// As `orientation` of the EXIF standard's table says.
    fn turned<const CHANNELS: usize>(&self, orientation: u8) -> Pixels {
        let (width, height) = if orientation < 5 { (self.width, self.height) } else { (self.height, self.width) };
        let (row, column) = (self.width as isize, 1);
        let (last_row, last_column) = (row * (self.height as isize - 1), self.width as isize - 1);
        // Where the first pixel shown is stored, and how far to the one on its right and the one below.
        let (first, right, below) = match orientation {
            2 => (last_column, -column, row),
            3 => (last_row + last_column, -column, -row),
            4 => (last_row, column, -row),
            5 => (0, row, column),
            6 => (last_row, -row, column),
            7 => (last_row + last_column, -row, -column),
            8 => (last_column, row, -column),
            _ => (0, column, row),
        };
        let stored = self.samples.as_chunks::<CHANNELS>().0;
        let mut rgb = Vec::with_capacity(width * height * 3);
        for y in 0..height as isize {
            let start = first + y * below;
            rgb.extend((0..width as isize).flat_map(|x| over_white(&stored[(start + x * right) as usize])));
        }
        Pixels { width, height, rgb }
    }
}

fn over_white(pixel: &[u8]) -> [u8; 3] {
    let (color, alpha) = match *pixel {
        [grey] => ([grey; 3], 255),
        [grey, alpha] => ([grey; 3], alpha),
        [r, g, b, alpha] => ([r, g, b], alpha),
        _ => ([pixel[0], pixel[1], pixel[2]], 255),
    };
    let alpha = alpha as u32;
    color.map(|c| ((c as u32 * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
}

/// Tag 0x0112 of a TIFF block's first directory, 1 to 8.
fn exif_orientation(block: &[u8]) -> Option<u8> {
    let block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    let little = match block.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let digits = block.get(at..at.checked_add(bytes)?)?;
        let append = |number: usize, &digit: &u8| number << 8 | digit as usize;
        Some(if little { digits.iter().rev().fold(0, append) } else { digits.iter().fold(0, append) })
    };
    let directory = number(4, 4)?;
    let entry = |n: usize| directory + 2 + 12 * n; // tag, type, count, value
    let found = (0..number(directory, 2)?).map(entry).find(|&at| number(at, 2) == Some(0x0112))?;
    u8::try_from(number(found + 8, 2)?).ok().filter(|orientation| (1..=8).contains(orientation))
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

fn png(bytes: &[u8]) -> Result<Stored, Refused> {
    use png::ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
    let failed = |error: png::DecodingError| match error {
        png::DecodingError::IoError(error) => Refused::io(error),
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
    Ok(Stored { width: frame.width as usize, height: frame.height as usize, channels, samples, exif })
}

fn webp(bytes: &[u8]) -> Result<Stored, Refused> {
    let failed = |error: image_webp::DecodingError| match error {
        image_webp::DecodingError::IoError(error) => Refused::io(error),
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
    Ok(Stored { width: width as usize, height: height as usize, channels, samples, exif })
}

fn bmp(bytes: &[u8]) -> Result<Stored, Refused> {
    let failed = |reason: Option<String>| reason.map_or(Refused::Truncated, Refused::Because);
    let bmp = Bmp::new(bytes).map_err(failed)?;
    check_size(bmp.width, bmp.height)?;
    let samples = bmp.rgba().map_err(failed)?;
    Ok(Stored { width: bmp.width, height: bmp.height, channels: 4, samples, exif: None })
}

fn gif(bytes: &[u8]) -> Result<Stored, Refused> {
    let failed = |error: gif::DecodingError| match error {
        gif::DecodingError::UnexpectedEof => Refused::Truncated,
        gif::DecodingError::Io(error) => Refused::io(error),
        error => Refused::because(error),
    };
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
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
    Ok(Stored { width, height, channels: 4, samples, exif: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Resize, decode_bytes};
    use image::codecs::jpeg::JpegEncoder;
    use image::{
        DynamicImage, ExtendedColorType, GrayImage, ImageBuffer, ImageEncoder, ImageFormat, Rgb, RgbImage, Rgba,
        RgbaImage,
    };

    const RED: [u8; 3] = [200, 30, 40];
    const BLUE: [u8; 3] = [20, 60, 220];

    /// 64 x 32: the left half red, the right half blue.
    fn halves() -> RgbImage {
        RgbImage::from_fn(64, 32, |x, _| Rgb(if x < 32 { RED } else { BLUE }))
    }

    fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// The pixel at (x, y) of an 8 x 8 stretched picture.
    fn pixel(bytes: &[u8], x: usize, y: usize) -> [u8; 3] {
        let pixels = decode_bytes(bytes, [8, 8], Resize::Stretch).unwrap();
        assert_eq!(pixels.len(), 8 * 8 * 3);
        let at = (y * 8 + x) * 3;
        [pixels[at], pixels[at + 1], pixels[at + 2]]
    }

    #[track_caller]
    fn assert_near(a: [u8; 3], b: [u8; 3]) {
        assert!(a.iter().zip(b).all(|(&a, b)| a.abs_diff(b) <= 8), "{a:?} is not near {b:?}");
    }

    #[test]
    fn every_format() {
        use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
        for format in [Jpeg, Png, WebP, Bmp, Gif] {
            let bytes = encoded(halves(), format);
            assert_near(pixel(&bytes, 1, 4), RED);
            assert_near(pixel(&bytes, 6, 4), BLUE);
        }
    }

    #[test]
    fn grey_alpha_and_16_bit() {
        let grey = GrayImage::from_pixel(9, 5, image::Luma([77]));
        assert_near(pixel(&encoded(grey.clone(), ImageFormat::Jpeg), 3, 3), [77; 3]);
        assert_eq!(pixel(&encoded(grey, ImageFormat::Png), 3, 3), [77; 3]);
        let half = RgbaImage::from_pixel(9, 5, Rgba([0, 0, 255, 51]));
        assert_eq!(pixel(&encoded(half, ImageFormat::Png), 3, 3), [204, 204, 255]);
        let deep: ImageBuffer<Rgb<u16>, Vec<u16>> = ImageBuffer::from_pixel(9, 5, Rgb([65535, 32768, 257]));
        assert_eq!(pixel(&encoded(deep, ImageFormat::Png), 3, 3), [255, 128, 1]);
    }

    /// A 1 x 1 PNG of a palette whose only colour is half transparent red.
    #[test]
    fn palette_with_transparency() {
        let mut bytes = Vec::new();
        let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut chunk = |name: &[u8], data: &[u8]| {
            png.extend((data.len() as u32).to_be_bytes());
            bytes = [name, data].concat();
            png.extend(&bytes);
            png.extend(crc32(&bytes).to_be_bytes());
        };
        chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 3, 0, 0, 0]);
        chunk(b"PLTE", &[255, 0, 0]);
        chunk(b"tRNS", &[128]);
        // zlib: one stored block with the filter byte and index 0; their Adler-32 is 2 << 16 | 1.
        chunk(b"IDAT", &[0x78, 0x01, 1, 2, 0, 0xFD, 0xFF, 0, 0, 0, 2, 0, 1]);
        chunk(b"IEND", &[]);
        assert_eq!(pixel(&png, 0, 0), [255, 127, 127]);
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, &byte| {
            (0..8).fold(crc ^ byte as u32, |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
        })
    }

    #[test]
    fn exif_orientation_is_applied() {
        // A TIFF block with one entry: tag 0x0112 (orientation), type SHORT.
        let exif = |orientation| {
            let mut block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
            block.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
            block
        };
        let with = |orientation| {
            let mut bytes = Vec::new();
            let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
            encoder.set_exif_metadata(exif(orientation)).unwrap();
            encoder.write_image(&halves(), 64, 32, ExtendedColorType::Rgb8).unwrap();
            bytes
        };
        // (left, top) as shown, by the EXIF standard's table for a picture stored with red on the left.
        for (orientation, left, top) in
            [(1, Some(RED), None), (2, Some(BLUE), None), (3, Some(BLUE), None), (4, Some(RED), None)]
                .into_iter()
                .chain([(5, None, Some(RED)), (6, None, Some(RED)), (7, None, Some(BLUE)), (8, None, Some(BLUE))])
        {
            let bytes = with(orientation);
            if let Some(left) = left {
                assert_near(pixel(&bytes, 1, 4), left);
            }
            if let Some(top) = top {
                assert_near(pixel(&bytes, 4, 1), top);
            }
        }
    }

    /// A baseline 8 x 8 JPEG of one colour per component, with Adobe's marker.
    fn four_component_jpeg(transform: u8, components: [u8; 4]) -> Vec<u8> {
        let mut jpeg = vec![0xFF, 0xD8];
        let mut segment = |marker: u8, data: &[u8]| {
            jpeg.extend([0xFF, marker]);
            jpeg.extend((data.len() as u16 + 2).to_be_bytes());
            jpeg.extend(data);
        };
        segment(0xEE, &[&b"Adobe\0\x64\0\0\0\0"[..], &[transform]].concat());
        segment(0xDB, &[&[0][..], &[8; 64]].concat()); // all quantisers 8: the DC coefficient is the value - 128
        let frame: Vec<u8> = (1..=4).flat_map(|id| [id, 0x11, 0]).collect();
        segment(0xC0, &[&[8, 0, 8, 0, 8, 4][..], &frame].concat());
        // DC: nine symbols (the categories 0 to 8) of 4 bits; AC: end of block, 1 bit.
        segment(0xC4, &[&[0x00, 0, 0, 0, 9][..], &[0; 12], &[0, 1, 2, 3, 4, 5, 6, 7, 8]].concat());
        segment(0xC4, &[&[0x10, 1][..], &[0; 15], &[0]].concat());
        let scan: Vec<u8> = (1..=4).flat_map(|id| [id, 0]).collect();
        segment(0xDA, &[&[4][..], &scan, &[0, 63, 0]].concat());
        let mut bits = String::new();
        for value in components.map(|value| value as i32 - 128) {
            let category = 32 - value.unsigned_abs().leading_zeros() as usize;
            bits += &format!("{category:04b}");
            if category > 0 {
                let code = if value < 0 { value + (1 << category) - 1 } else { value };
                bits += &format!("{code:0category$b}");
            }
            bits += "0";
        }
        while !bits.len().is_multiple_of(8) {
            bits += "1";
        }
        for byte in bits.as_bytes().chunks(8) {
            let byte = byte.iter().fold(0, |byte, bit| byte << 1 | (bit - b'0'));
            jpeg.push(byte);
            if byte == 0xFF {
                jpeg.push(0);
            }
        }
        jpeg.extend([0xFF, 0xD9]);
        jpeg
    }

    #[test]
    fn cmyk_and_ycck() {
        // Adobe stores ink inverted: 255 is none. So red = C * K.
        assert_near(pixel(&four_component_jpeg(0, [255, 128, 10, 255]), 4, 4), [255, 128, 10]);
        assert_near(pixel(&four_component_jpeg(0, [255, 255, 255, 64]), 4, 4), [64; 3]);
        // YCCK: the inverted inks are 255 - RGB of (Y, Cb, Cr).
        assert_near(pixel(&four_component_jpeg(2, [55, 128, 128, 255]), 4, 4), [200; 3]);
    }

    fn refusal(bytes: &[u8]) -> String {
        decode_bytes(bytes, [8, 8], Resize::Stretch).unwrap_err()
    }

    #[test]
    fn lies_are_told_in_short() {
        assert_eq!(refusal(b""), "empty file");
        assert_eq!(refusal(b"Hello, I am cat.0.jpg\n"), "not a picture: begins with 'Hello, I am '");
        assert_eq!(refusal(b"BM says the text"), "not a picture: begins with 'BM says the '");
        assert!(refusal(b"\0\0\0\x18ftypheic\0\0\0\0").starts_with("HEIC or AVIF is not supported"));
        let mut huge = encoded(halves(), ImageFormat::Bmp);
        huge[18..26].copy_from_slice(&[0x60, 0xEA, 0, 0, 0x60, 0xEA, 0, 0]);
        assert_eq!(refusal(&huge), "claims 60000 x 60000 = 3600 megapixels, more than 100");
    }

    #[test]
    fn truncated_files_are_refused() {
        use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
        let noise = RgbImage::from_fn(64, 64, |x, y| Rgb([(x * 37 + y * 101) as u8, (x * y) as u8, (x ^ y) as u8 * 3]));
        for format in [Jpeg, Png, WebP, Bmp, Gif] {
            let bytes = encoded(noise.clone(), format);
            for kept in [bytes.len() / 2, bytes.len() * 9 / 10] {
                let reason = refusal(&bytes[..kept]);
                assert!(!reason.is_empty() && !reason.contains('\n'), "{format:?}: {reason}");
            }
        }
        let jpeg = encoded(noise, Jpeg);
        for missing in [jpeg.len() / 2, 40, 12] {
            assert_eq!(refusal(&jpeg[..jpeg.len() - missing]), "truncated JPEG", "{missing} bytes missing");
        }
        // All pixels are there.
        let whole = Pixels::read(&jpeg).unwrap();
        for missing in [1, 2] {
            assert_eq!(Pixels::read(&jpeg[..jpeg.len() - missing]).unwrap(), whole);
        }
    }

    /// What other encoders write and `image`'s does not: the pixels are right, or there is a reason.
    #[test]
    fn unusual_jpegs_are_right_or_refused() {
        use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
        let picture = RgbImage::from_fn(64, 48, |x, y| Rgb([(x * 3) as u8, (y * 4) as u8, 90]));
        let factors = [
            (SamplingFactor::R_4_4_4, true),
            (SamplingFactor::R_4_2_2, true),
            (SamplingFactor::R_4_2_0, true),
            (SamplingFactor::R_4_4_0, true),
            (SamplingFactor::R_4_1_1, false), // of these the encoder writes each component in a scan of its own
            (SamplingFactor::R_4_1_0, false),
            (SamplingFactor::R_4_4_1, false),
        ];
        for (factor, readable) in factors {
            for progressive in [false, true] {
                let mut bytes = Vec::new();
                let mut encoder = Encoder::new(&mut bytes, 95);
                encoder.set_sampling_factor(factor);
                encoder.set_progressive(progressive);
                encoder.encode(picture.as_raw(), 64, 48, ColorType::Rgb).unwrap();
                match Pixels::read(&bytes) {
                    Ok(pixels) => {
                        let off = |(a, b): (&u8, &u8)| a.abs_diff(*b) as u32;
                        let sum: u32 = pixels.rgb.iter().zip(picture.as_raw()).map(off).sum();
                        let mean = sum as f64 / pixels.rgb.len() as f64;
                        assert!(mean < 6.0, "{factor:?}, progressive {progressive}: {mean} off on the average");
                    }
                    Err(reason) => {
                        assert!(!readable && !progressive, "{factor:?}, progressive {progressive}: {reason}");
                        assert!(reason.contains("unusual layout"), "{reason}");
                    }
                }
                // A progressive picture is a sequence of scans, any of which may be missing.
                if progressive {
                    for kept in (bytes.len() / 3..bytes.len() - 1).step_by(7) {
                        assert!(Pixels::read(&bytes[..kept]).is_err(), "{kept} of {} bytes", bytes.len());
                    }
                }
            }
        }
    }

    #[test]
    fn png_orientation_behind_the_pixels() {
        let png = encoded(halves(), ImageFormat::Png);
        let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0".to_vec();
        let length = exif.len() as u32;
        exif.splice(0..0, *b"eXIf");
        let chunk = [&length.to_be_bytes()[..], &exif, &crc32(&exif).to_be_bytes()].concat();
        let end = png.len() - 12;
        let turned = [&png[..end], &chunk, &png[end..]].concat();
        assert_near(pixel(&turned, 4, 1), RED);
        assert_near(pixel(&turned, 4, 6), BLUE);
    }

    /// Flipped bytes may give any picture or any reason, but no panic.
    #[test]
    fn damaged_files_never_panic() {
        use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
        for format in [Jpeg, Png, WebP, Bmp, Gif] {
            let bytes = encoded(halves(), format);
            for at in 0..bytes.len().min(400) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0xA5;
                let _ = Pixels::read(&damaged);
            }
        }
    }
}
