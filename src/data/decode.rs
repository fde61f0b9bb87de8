//! A picture file to RGB pixels of one size.

use std::fs;
use std::io::{Cursor, ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Rgb, RgbImage};
use resize::Pixel::RGB8;
use resize::Type::Triangle;
use rgb::FromSlice;
use serde::{Deserialize, Serialize};

/// A picture that claims more is not decoded.
const MAX_MEGAPIXELS: u64 = 100;
/// Enough for that many pixels of 16-bit RGBA, and the same limit for the file.
const MAX_BYTES: u64 = 1 << 30;
/// As many first bytes as [`format`] looks at.
pub(super) const MAGIC_BYTES: usize = 32;

/// How a picture of any shape becomes one of the given size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// Width and height each to its size: the aspect changes, nothing is cut off.
    Stretch,
    /// The picture is scaled to cover the size and what hangs over is cut off, the same on both sides. For a square
    /// size: the shorter side to it, then the centre crop.
    #[default]
    ShorterSide,
}

/// The picture at `path` as RGB, u8 `[H, W, 3]` for `size` = `[H, W]`, upright as its EXIF orientation says,
/// transparent parts over white, 16-bit channels rounded to 8, the first frame of an animation. The content decides the
/// format, not the name. It is resized with a triangle filter as wide as the reduction (antialiased, as Pillow's and
/// torchvision's bilinear).
///
/// # Errors
/// A short reason, such as `truncated JPEG`; never a panic.
pub fn decode(path: &Path, size: [usize; 2], resize: Resize) -> Result<Vec<u8>, String> {
    decode_bytes(&read(path)?, size, resize)
}

/// As [`decode`], of a file's bytes.
pub fn decode_bytes(bytes: &[u8], size: [usize; 2], resize: Resize) -> Result<Vec<u8>, String> {
    // The decoders are safe Rust but not free of bugs: a broken file may not end a training run.
    catch_unwind(AssertUnwindSafe(|| resized(upright(bytes)?, size, resize)))
        .unwrap_or_else(|_| Err("the decoder failed on it".to_string()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let system = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => "no such file".to_string(),
        ErrorKind::PermissionDenied => "permission denied".to_string(),
        _ => error.to_string(),
    };
    let found = fs::metadata(path).map_err(system)?;
    if found.is_dir() {
        return Err("this is a folder".to_string());
    }
    if !found.is_file() {
        return Err("not a regular file".to_string()); // reading a pipe could block
    }
    let mut bytes = Vec::with_capacity(found.len().min(MAX_BYTES) as usize);
    fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(system)?;
    if bytes.len() as u64 > MAX_BYTES { Err("larger than 1 GiB".to_string()) } else { Ok(bytes) }
}

/// The format that the first bytes show, or why they are no picture that can be read.
pub(super) fn format(bytes: &[u8]) -> Result<ImageFormat, String> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    if bytes.is_empty() {
        return Err("empty file".to_string());
    }
    match image::guess_format(bytes) {
        Ok(format @ (Gif | Jpeg | Png | WebP)) => Ok(format),
        // "BM" alone may begin a text: the size of the header after it is small, so its upper bytes are 0.
        Ok(Bmp) if bytes.get(15..18) == Some(&[0; 3]) => Ok(Bmp),
        Ok(format) if format != Bmp => Err(unsupported(&format!("{format:?}").to_uppercase())),
        _ if bytes.get(4..8) == Some(b"ftyp") => Err(unsupported("HEIC or AVIF")),
        _ => Err(format!("not a picture: begins with '{}'", bytes[..bytes.len().min(12)].escape_ascii())),
    }
}

fn unsupported(format: &str) -> String {
    format!("{format} is not supported; convert it to JPEG, PNG, WebP, BMP or GIF")
}

/// All pixels, turned upright, as RGB.
fn upright(bytes: &[u8]) -> Result<RgbImage, String> {
    let format = format(bytes)?;
    let failed = |error: ImageError| match error {
        ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => truncated(format),
        error => error.to_string().lines().next().unwrap_or_default().to_string(),
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    let pixels = width as u64 * height as u64;
    if pixels > MAX_MEGAPIXELS * 1_000_000 {
        let megapixels = pixels.div_ceil(1_000_000);
        return Err(format!("claims {width} x {height} = {megapixels} megapixels, more than {MAX_MEGAPIXELS}"));
    }
    if format == ImageFormat::Jpeg && !jpeg_has_end(bytes) {
        return upright(&jpeg_with_end(bytes).ok_or_else(|| truncated(format))?);
    }
    // A broken EXIF block says nothing about the pixels.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(failed)?;
    picture.apply_orientation(orientation);
    Ok(if picture.color().has_alpha() { over_white(picture) } else { picture.into_rgb8() })
}

fn truncated(format: ImageFormat) -> String {
    format!("truncated {}", format!("{format:?}").to_uppercase())
}

/// Whether an end marker follows the pixels. The decoder itself fills up what is missing with grey and says nothing.
fn jpeg_has_end(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    let mut at = 2;
    // Over the segments in front, for the EXIF one may hold a whole thumbnail with an end marker of its own.
    while let Some(&[0xFF, marker, high, low]) = bytes.get(at..at + 4) {
        match marker {
            START_OF_SCAN => break,
            0xFF => at += 1, // fill byte
            _ => at += 2 + u16::from_be_bytes([high, low]) as usize,
        }
    }
    bytes.get(at..).is_some_and(|rest| rest.windows(2).rev().any(|pair| pair == [0xFF, 0xD9]))
}

/// A JPEG without end marker, completed with one, if nothing else is missing (some cameras leave it out): then no pixel depends on
/// what follows.
fn jpeg_with_end(bytes: &[u8]) -> Option<Vec<u8>> {
    let kept = bytes.strip_suffix(&[0xFF]).unwrap_or(bytes); // half of the marker
    let with = |between: &[u8]| [kept, between, &[0xFF, 0xD9]].concat();
    let pixels = |bytes: &[u8]| image::load_from_memory_with_format(bytes, ImageFormat::Jpeg).ok();
    let completed = with(&[]);
    let picture = pixels(&completed)?;
    (pixels(&with(&[0x55; 64])).as_ref() == Some(&picture)).then_some(completed)
}

fn over_white(picture: DynamicImage) -> RgbImage {
    let rgba = picture.into_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (from, to) in rgba.pixels().zip(rgb.pixels_mut()) {
        let [r, g, b, alpha] = from.0.map(u32::from);
        let blend = |c| ((c * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        *to = Rgb([blend(r), blend(g), blend(b)]);
    }
    rgb
}

fn resized(picture: RgbImage, [height, width]: [usize; 2], resize: Resize) -> Result<Vec<u8>, String> {
    let (stored_width, stored_height) = (picture.width() as usize, picture.height() as usize);
    // What is cut off is left out before, not after: of a picture of 20000 x 1 pixels little is seen.
    let (seen_width, seen_height) = match resize {
        Resize::Stretch => (stored_width, stored_height),
        Resize::ShorterSide => {
            let scaled = |side: usize, to: usize, of: usize| ((side * to) as f64 / of as f64).round().max(1.0) as usize;
            let (seen_width, seen_height) = (scaled(stored_height, width, height), scaled(stored_width, height, width));
            (seen_width.min(stored_width), seen_height.min(stored_height))
        }
    };
    let first = (stored_height - seen_height) / 2 * stored_width + (stored_width - seen_width) / 2;
    let seen = &picture.as_raw().as_rgb()[first..];
    let mut pixels = vec![0; height * width * 3];
    resize::new(seen_width, seen_height, width, height, RGB8, Triangle)
        .and_then(|mut resizer| resizer.resize_stride(seen, stored_width, pixels.as_rgb_mut()))
        .map_err(|error| error.to_string())?;
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;
    use image::{ExtendedColorType, GrayImage, ImageBuffer, ImageEncoder, Rgba, RgbaImage};

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

    #[test]
    fn shorter_side_keeps_the_aspect() {
        // A wide picture, red in its middle (a little more than a square, for the filter's reach) and blue at both
        // ends.
        let picture = RgbImage::from_fn(96, 32, |x, _| Rgb(if (28..68).contains(&x) { RED } else { BLUE }));
        let bytes = encoded(picture, ImageFormat::Png);
        let cropped = decode_bytes(&bytes, [16, 16], Resize::ShorterSide).unwrap();
        assert!(cropped.chunks(3).all(|pixel| pixel == RED));
        let stretched = decode_bytes(&bytes, [16, 24], Resize::Stretch).unwrap();
        assert_eq!((stretched.len(), &stretched[..3], &stretched[12 * 3..13 * 3]), (16 * 24 * 3, &BLUE[..], &RED[..]));
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
        let whole = upright(&jpeg).unwrap();
        for missing in [1, 2] {
            assert_eq!(upright(&jpeg[..jpeg.len() - missing]).unwrap(), whole);
        }
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
                let _ = upright(&damaged);
            }
        }
    }

    #[test]
    fn paths_that_are_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = |path: &Path| decode(path, [8, 8], Resize::Stretch).unwrap_err();
        assert_eq!(refusal(dir.path()), "this is a folder");
        assert_eq!(refusal(&dir.path().join("gone.jpg")), "no such file");
    }
}
