//! A picture file to RGB pixels of one size.

use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use convoy_codec::{Picture, Resizer};
use serde::{Deserialize, Serialize};

use super::format::{Format, MAGIC_BYTES};
use super::memory::{Held, MOST_OF_FILE, Memory};
use super::pixels::{Damage, Pixels};

/// Which pixels a file gives: another number where a later version of convoy, or of a crate that decodes or resizes, gives others.
/// Pixels that were kept by a version of another number are not used.
pub(super) const PIXELS_VERSION: u32 = 2;

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
/// torchvision's bilinear). Of a JPEG that ends early the rest is grey, if half of its rows are there.
///
/// # Errors
/// A short reason, such as `truncated JPEG`; never a panic.
pub fn decode(path: &Path, size: [usize; 2], resize: Resize) -> Result<Vec<u8>, String> {
    let mut pixels = vec![0; size[0] * size[1] * 3];
    Decoder::default().decode(path, size, resize, &mut pixels, &Memory::new())?;
    Ok(pixels)
}

/// As [`decode`], of a file's bytes.
pub fn decode_bytes(bytes: &[u8], size: [usize; 2], resize: Resize) -> Result<Vec<u8>, String> {
    let mut pixels = vec![0; size[0] * size[1] * 3];
    Decoder::default().decode_bytes(bytes, size, resize, &mut pixels, &Memory::new())?;
    Ok(pixels)
}

/// Decodes one picture after the other in the same memory.
#[derive(Default)]
pub(super) struct Decoder {
    file: Vec<u8>,
    resizer: Resizer,
}

/// What there is to say of a picture that was decoded.
pub(super) struct Decoded {
    pub damage: Option<Damage>,
    /// The file's, if it did not change while it was read.
    pub metadata: Option<Metadata>,
}

impl Decoder {
    /// Decodes into `pixels`, u8 `[H, W, 3]`, when `memory` has room for it.
    pub fn decode(
        &mut self,
        path: &Path,
        size: [usize; 2],
        resize: Resize,
        pixels: &mut [u8],
        memory: &Memory,
    ) -> Result<Decoded, String> {
        let mut file = std::mem::take(&mut self.file);
        let decoded = read(path, &mut file, memory).and_then(|(_held, metadata)| {
            let damage = self.decode_bytes(&file, size, resize, pixels, memory)?;
            Ok(Decoded { damage, metadata })
        });
        // One large file is no reason to keep its room for ever.
        file.shrink_to(1 << 20);
        self.file = file;
        decoded
    }

    fn decode_bytes(
        &mut self,
        bytes: &[u8],
        size: [usize; 2],
        resize: Resize,
        pixels: &mut [u8],
        memory: &Memory,
    ) -> Result<Option<Damage>, String> {
        let _held = memory.pictures.take(memory_of(bytes));
        caught(|| {
            let picture = Pixels::read_for(bytes, size[0].max(size[1]))?;
            self.resized(&picture, size, resize, pixels)?;
            Ok(picture.damage)
        })
    }

    fn resized(&mut self, picture: &Pixels, size: [usize; 2], resize: Resize, pixels: &mut [u8]) -> Result<(), String> {
        let part = seen(picture, size, resize);
        let Pixels { width, height, ref rgb, .. } = *picture;
        self.resizer.resize(Picture { width, height, rgb }, part, size, pixels)
    }
}

/// The part of a picture that is resized: left, top, width, height.
fn seen(picture: &Pixels, [height, width]: [usize; 2], resize: Resize) -> [usize; 4] {
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
    [(stored_width - seen_width) / 2, (stored_height - seen_height) / 2, seen_width, seen_height]
}

/// What `decode` gives. The decoders are safe Rust but not free of bugs: a broken file may not end a training run.
pub(super) fn caught<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err("the decoder failed on it".to_string()))
}

/// About how many bytes decoding a file takes.
pub(super) fn memory_of(bytes: &[u8]) -> usize {
    caught(|| Ok(Pixels::memory(bytes))).unwrap_or_default()
}

/// Reads a picture's file into `bytes`, when `memory` has room for it. Its metadata, if they were the same before and after.
pub(super) fn read<'a>(
    path: &Path,
    bytes: &mut Vec<u8>,
    memory: &'a Memory,
) -> Result<(Held<'a>, Option<Metadata>), String> {
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
    bytes.clear();
    let mut file = File::open(path).map_err(system)?;
    let before = file.metadata().map_err(system)?;
    // What is no picture shows in its first bytes.
    (&mut file).take(MAGIC_BYTES as u64).read_to_end(bytes).map_err(system)?;
    Format::of(bytes)?;
    let larger = || format!("larger than {} MiB; save it smaller", MOST_OF_FILE >> 20);
    let length = usize::try_from(before.len()).ok().filter(|&length| length <= MOST_OF_FILE).ok_or_else(larger)?;
    let held = memory.files.take(length);
    bytes.reserve(length.saturating_sub(bytes.len()));
    (&mut file).take((MOST_OF_FILE + 1 - bytes.len()) as u64).read_to_end(bytes).map_err(system)?;
    if bytes.len() > MOST_OF_FILE {
        return Err(larger());
    }
    let after = file.metadata().map_err(system)?;
    let same = before.len() == after.len() && before.modified().ok() == after.modified().ok();
    Ok((held, (same && after.len() == bytes.len() as u64).then_some(after)))
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

    /// Neither what is no picture nor what is too large is read into memory.
    #[test]
    fn large_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = |begin: &[u8]| {
            let path = dir.path().join("large.jpg");
            std::fs::write(&path, begin).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(3 << 30).unwrap();
            let mut bytes = Vec::new();
            let refusal = read(&path, &mut bytes, &Memory::new()).map(drop).unwrap_err();
            assert!(bytes.capacity() < 1 << 16);
            refusal
        };
        assert_eq!(refusal(b"Hello"), format!("not a picture: begins with 'Hello{}'", "\\x00".repeat(7)));
        assert_eq!(refusal(b"\xFF\xD8\xFF\xE0"), "larger than 128 MiB; save it smaller");
    }

    #[test]
    fn paths_that_are_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = |path: &Path| decode(path, [8, 8], Resize::Stretch).unwrap_err();
        assert_eq!(refusal(dir.path()), "this is a folder");
        assert_eq!(refusal(&dir.path().join("gone.jpg")), "no such file");
    }
}
