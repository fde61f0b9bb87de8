//! A picture file to RGB pixels of one size.

use std::fs;
use std::io::{ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use resize::Pixel::RGB8;
use resize::Type::Triangle;
use rgb::FromSlice;
use serde::{Deserialize, Serialize};

use super::pixels::Pixels;

/// A larger file is not read.
const MAX_BYTES: u64 = 1 << 30;

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
    catch_unwind(AssertUnwindSafe(|| resized(&Pixels::read(bytes)?, size, resize)))
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

fn resized(picture: &Pixels, [height, width]: [usize; 2], resize: Resize) -> Result<Vec<u8>, String> {
    let (stored_width, stored_height) = (picture.width, picture.height);
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
    let seen = &picture.rgb.as_rgb()[first..];
    let mut pixels = vec![0; height * width * 3];
    resize::new(seen_width, seen_height, width, height, RGB8, Triangle)
        .and_then(|mut resizer| resizer.resize_stride(seen, stored_width, pixels.as_rgb_mut()))
        .map_err(|error| error.to_string())?;
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, Rgb, RgbImage};
    use std::io::Cursor;

    const RED: [u8; 3] = [200, 30, 40];
    const BLUE: [u8; 3] = [20, 60, 220];

    #[test]
    fn shorter_side_keeps_the_aspect() {
        // A wide picture, red in its middle (a little more than a square, for the filter's reach) and blue at both
        // ends.
        let picture = RgbImage::from_fn(96, 32, |x, _| Rgb(if (28..68).contains(&x) { RED } else { BLUE }));
        let mut png = Cursor::new(Vec::new());
        picture.write_to(&mut png, ImageFormat::Png).unwrap();
        let bytes = png.into_inner();
        let cropped = decode_bytes(&bytes, [16, 16], Resize::ShorterSide).unwrap();
        assert!(cropped.chunks(3).all(|pixel| pixel == RED));
        let stretched = decode_bytes(&bytes, [16, 24], Resize::Stretch).unwrap();
        assert_eq!((stretched.len(), &stretched[..3], &stretched[12 * 3..13 * 3]), (16 * 24 * 3, &BLUE[..], &RED[..]));
    }

    #[test]
    fn paths_that_are_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = |path: &Path| decode(path, [8, 8], Resize::Stretch).unwrap_err();
        assert_eq!(refusal(dir.path()), "this is a folder");
        assert_eq!(refusal(&dir.path().join("gone.jpg")), "no such file");
    }
}
