//! Files of every format, whole and broken, made by other code than reads them.

use std::io::Cursor;

use super::*;
use crate::data::{Resize, decode_bytes};
use image::codecs::jpeg::JpegEncoder;
use image::{
    DynamicImage, ExtendedColorType, GrayImage, ImageBuffer, ImageEncoder, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage,
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

/// Red on the left, blue on the right, to be turned as the EXIF standard's table says.
fn turned(orientation: u8) -> Vec<u8> {
    // A TIFF block with one entry: tag 0x0112 (orientation), type SHORT.
    let mut block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    block.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
    encoder.set_exif_metadata(block).unwrap();
    encoder.write_image(&halves(), 64, 32, ExtendedColorType::Rgb8).unwrap();
    bytes
}

#[test]
fn exif_orientation_is_applied() {
    // (left, top) as shown, by the EXIF standard's table for a picture stored with red on the left.
    for (orientation, left, top) in
        [(1, Some(RED), None), (2, Some(BLUE), None), (3, Some(BLUE), None), (4, Some(RED), None)].into_iter().chain([
            (5, None, Some(RED)),
            (6, None, Some(RED)),
            (7, None, Some(BLUE)),
            (8, None, Some(BLUE)),
        ])
    {
        let bytes = turned(orientation);
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
    for format in [Png, WebP, Bmp, Gif] {
        let bytes = encoded(noise.clone(), format);
        for kept in [bytes.len() / 2, bytes.len() * 9 / 10] {
            let reason = refusal(&bytes[..kept]);
            assert!(!reason.is_empty() && !reason.contains('\n'), "{format:?}: {reason}");
        }
    }
    let jpeg = encoded(noise, Jpeg);
    for kept in [jpeg.len() / 3, 700, 40] {
        assert_eq!(refusal(&jpeg[..kept]), "truncated JPEG", "{kept} bytes");
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
                    let part = Pixels::read(&bytes[..kept]);
                    assert!(part.is_err() || part.unwrap().damage == Some(Damage::Scans), "{kept} of {}", bytes.len());
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

/// Rows that are there are as they were, the rest is grey, and it is told; less than half is refused.
#[test]
fn most_of_a_truncated_jpeg_is_used() {
    let noise = RgbImage::from_fn(64, 96, |x, y| Rgb([(x * 37 + y * 101) as u8, (x * y) as u8, (x ^ y) as u8 * 3]));
    let bytes = encoded(noise, ImageFormat::Jpeg);
    let whole = Pixels::read(&bytes).unwrap();
    let (mut used, mut refused) = (0, 0);
    for kept in (bytes.len() / 4..bytes.len() - 2).step_by(53) {
        match Pixels::read(&bytes[..kept]) {
            Ok(part) => {
                let Some(Damage::Rows(percent)) = part.damage else { panic!("{kept}: {:?}", part.damage) };
                let rows = part.rgb.chunks(64 * 3).zip(whole.rgb.chunks(64 * 3)).take_while(|(a, b)| a == b).count();
                assert!(rows >= 48 && (rows * 100 / 96).abs_diff(percent as usize) <= 1, "{kept}: {rows}, {percent} %");
                assert!(part.rgb[rows * 64 * 3..].iter().all(|&value| value == 128), "{kept}");
                used += 1;
            }
            Err(reason) => {
                assert_eq!((reason.as_str(), used), ("truncated JPEG", 0), "{kept}");
                refused += 1;
            }
        }
    }
    assert!(used > 10 && refused > 5, "{used} used, {refused} refused");
    let damage = Pixels::read(&bytes[..bytes.len() * 9 / 10]).unwrap().damage.unwrap();
    assert!(damage.to_string().starts_with("truncated JPEG: 8"), "{damage}");
}

/// A progressive JPEG of which the first scans are there is coarse, but all of it is there.
#[test]
fn the_first_scans_of_a_progressive_jpeg_are_used() {
    use jpeg_encoder::{ColorType, Encoder};
    let picture = RgbImage::from_fn(64, 48, |x, y| Rgb([(x * 3) as u8, (y * 4) as u8, 90 + (x ^ y) as u8 % 9]));
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 95);
    encoder.set_progressive(true);
    encoder.encode(picture.as_raw(), 64, 48, ColorType::Rgb).unwrap();
    let off = |kept: usize| {
        let part = Pixels::read(&bytes[..kept]).ok()?;
        assert_eq!(part.damage, Some(Damage::Scans));
        let sum: u32 = part.rgb.iter().zip(picture.as_raw()).map(|(a, b)| a.abs_diff(*b) as u32).sum();
        Some(sum as f64 / part.rgb.len() as f64)
    };
    let errors: Vec<f64> = (0..bytes.len() - 2).filter_map(off).collect();
    assert!(errors.len() > 50 && errors.iter().all(|&mean| mean < 12.0), "{errors:?}");
    assert!(Pixels::read(&bytes[..bytes.len() / 8]).is_err());
}

/// As [`decode_bytes`] needs them, and a little more.
/// JPEGs of eight times what is wanted and more are decoded at a part of their size: in colour, grey, turned, progressive.
#[test]
fn large_jpegs_are_decoded_smaller() {
    let size = [24, 32];
    let wave =
        |x: u32, y: u32, at: f64| (128.0 + 100.0 * ((x as f64 / 83.0 + at).sin() * (y as f64 / 59.0).cos())) as u8;
    let colour = RgbImage::from_fn(800, 608, |x, y| Rgb([wave(x, y, 0.0), wave(x, y, 1.0), wave(y, x, 2.0)]));
    let mut grey = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut grey, 95).encode_image(&DynamicImage::from(colour.clone()).to_luma8()).unwrap();
    for (name, bytes) in [("colour", encoded(colour, ImageFormat::Jpeg)), ("grey", grey.into_inner())] {
        let (whole, small) = (Pixels::read(&bytes).unwrap(), Pixels::read_for(&bytes, 32).unwrap());
        assert_eq!([whole.width, whole.height, small.width, small.height], [800, 608, 100, 76], "{name}");
        let mut expected = vec![0; 24 * 32 * 3];
        let picture = convoy_codec::Picture { width: 800, height: 608, rgb: &whole.rgb };
        let mut resizer = convoy_codec::Resizer::default();
        resizer.resize(picture, [0, 0, 800, 608], size, &mut expected).unwrap();
        let pixels = decode_bytes(&bytes, size, Resize::Stretch).unwrap();
        let worst = pixels.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(4), "{name}: {worst:?}");
        // What ends early is read whole, for what is missing to be found.
        let part = Pixels::read_for(&bytes[..bytes.len() * 9 / 10], 32).unwrap();
        assert!(part.damage.is_some() && part.width == 800, "{name}");
        let width = |wanted| Pixels::read_for(&bytes, wanted).unwrap().width;
        assert_eq!([width(40), width(76), width(77)], [200, 200, 800], "{name}");
    }
}

#[test]
fn the_memory_of_a_picture_is_known_before() {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    let memory: Vec<usize> =
        [Jpeg, Png, WebP, Bmp, Gif].map(|format| Pixels::memory(&encoded(halves(), format)) / (64 * 32)).into();
    assert_eq!(memory, [3, 7, 11, 8, 11]);
    let memory = |orientation| Pixels::memory(&turned(orientation)) / (64 * 32);
    assert_eq!((memory(1), memory(6)), (3, 6));
    assert_eq!(Pixels::memory(b"Hello"), 0);
}

/// The first of two frames, and the background where it has none.
#[test]
fn the_first_frame_of_an_animation() {
    let mut bytes = Vec::new();
    {
        let mut encoder = gif::Encoder::new(&mut bytes, 16, 8, &[]).unwrap();
        for (left, color) in [(0, RED), (8, BLUE)] {
            let pixels: Vec<u8> = color.repeat(8 * 8);
            let mut frame = gif::Frame::from_rgb(8, 8, &pixels);
            frame.left = left;
            encoder.write_frame(&frame).unwrap();
        }
    }
    assert_near(pixel(&bytes, 1, 4), RED);
    assert_near(pixel(&bytes, 6, 4), [255; 3]);
}
