//! What a file is, by its first bytes: of which format, and how many pixels it claims to have.

use std::fmt::{self, Display};

/// As many first bytes as [`Format::of`] looks at.
pub(super) const MAGIC_BYTES: usize = 32;

/// The formats that are read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_are_told_in_short() {
        let refusal = |bytes: &[u8]| Format::of(bytes).unwrap_err();
        assert_eq!(refusal(b""), "empty file");
        assert_eq!(refusal(b"Hello, I am cat.0.jpg\n"), "not a picture: begins with 'Hello, I am '");
        assert_eq!(refusal(b"BM says the text"), "not a picture: begins with 'BM says the '");
        assert!(refusal(b"\0\0\0\x18ftypheic\0\0\0\0").starts_with("HEIC or AVIF is not supported"));
    }
}
