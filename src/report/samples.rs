//! A batch as the network sees it, with labels.

use font8x8::{BASIC_FONTS, GREEK_FONTS, HIRAGANA_FONTS, LATIN_FONTS, UnicodeFonts};

use crate::error::{Error, Result};

/// Pictures in a row.
const COLUMNS: usize = 8;
/// Smaller pictures are shown as squares of pixels, so that a picture is about as wide.
const WIDTH: usize = 96;
/// Pixels between pictures.
const GAP: usize = 4;
/// Height and width of a letter.
const LETTER: usize = 8;
const PAPER: u8 = 255;
const INK: u8 = 0;

/// Normalised pictures and their labels.
pub struct Samples<'a> {
    /// f32 `[N, 3, H, W]`, as the first layer gets them.
    pub pictures: &'a [f32],
    /// H, W.
    pub size: [usize; 2],
    /// What was subtracted of pixels in [0, 1], by channel.
    pub mean: [f32; 3],
    /// What they were divided by.
    pub std: [f32; 3],
    /// A label for each picture; those that have none are not shown.
    pub labels: Vec<Option<&'a str>>,
}

impl Samples<'_> {
    /// A PNG file of all of them. Colours that augmentation has moved out of the range are cut off.
    ///
    /// # Errors
    /// When it would be too large.
    pub fn png(&self) -> Result<Vec<u8>> {
        let shown: Vec<(&[f32], &str)> = self
            .pictures
            .chunks(3 * self.size[0] * self.size[1])
            .zip(&self.labels)
            .filter_map(|(picture, label)| Some((picture, (*label)?)))
            .collect();
        let [height, width] = self.size;
        let scale = WIDTH.div_ceil(width.max(1));
        let cell = [height * scale + LETTER + 2 * GAP, width * scale + GAP];
        let (columns, rows) = (COLUMNS.min(shown.len()).max(1), shown.len().div_ceil(COLUMNS).max(1));
        let mut sheet = Sheet::new(columns * cell[1] + GAP, rows * cell[0] + GAP);
        for (n, (picture, label)) in shown.into_iter().enumerate() {
            let (left, top) = (GAP + n % COLUMNS * cell[1], GAP + n / COLUMNS * cell[0]);
            for (y, x) in (0..height * scale).flat_map(|y| (0..width * scale).map(move |x| (y, x))) {
                sheet.set(left + x, top + y, self.pixel(picture, y / scale, x / scale));
            }
            sheet.write(left, top + height * scale + 2, width * scale, label);
        }
        sheet.png()
    }

    fn pixel(&self, picture: &[f32], row: usize, column: usize) -> [u8; 3] {
        let [height, width] = self.size;
        std::array::from_fn(|c| {
            let value = picture[(c * height + row) * width + column] * self.std[c] + self.mean[c];
            (value * 255.0).round().clamp(0.0, 255.0) as u8 // NaN becomes 0
        })
    }
}

/// An RGB picture to draw on.
struct Sheet {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Sheet {
    fn new(width: usize, height: usize) -> Sheet {
        Sheet { width, height, rgb: vec![PAPER; width * height * 3] }
    }

    fn set(&mut self, x: usize, y: usize, color: [u8; 3]) {
        let at = (y * self.width + x) * 3;
        self.rgb[at..at + 3].copy_from_slice(&color);
    }

    /// Writes as much of `text` as fits into `room` pixels; letters that the font lacks are boxes.
    fn write(&mut self, left: usize, top: usize, room: usize, text: &str) {
        const BOX: [u8; LETTER] = [0, 0x3C, 0x24, 0x24, 0x24, 0x24, 0x3C, 0];
        for (n, letter) in text.chars().take(room / LETTER).enumerate() {
            let fonts =
                [BASIC_FONTS.get(letter), LATIN_FONTS.get(letter), GREEK_FONTS.get(letter), HIRAGANA_FONTS.get(letter)];
            let rows = fonts.into_iter().flatten().next().unwrap_or(BOX);
            for (y, x) in (0..LETTER).flat_map(|y| (0..LETTER).map(move |x| (y, x))) {
                if rows[y] >> x & 1 == 1 {
                    self.set(left + n * LETTER + x, top + y, [INK; 3]);
                }
            }
        }
    }

    fn png(self) -> Result<Vec<u8>> {
        let failed = |error: png::EncodingError| Error::input(format!("samples.png: {error}"));
        let mut file = Vec::new();
        let side = |side: usize| u32::try_from(side).map_err(|_| Error::input("samples.png would be too large"));
        let mut encoder = png::Encoder::new(&mut file, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(&self.rgb).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_come_back_with_their_labels_below() {
        // Three pictures of 2 x 2, red rising; the second has no label.
        let (mean, std) = ([0.5, 0.25, 0.0], [0.5, 0.25, 1.0]);
        let plane = |value: f32| [value; 4];
        let picture = |red: u8| {
            let channel = |c: usize, v: f32| plane((v - mean[c]) / std[c]);
            [channel(0, red as f32 / 255.0), channel(1, 2.0), channel(2, -1.0)].concat()
        };
        let pictures = [picture(10), picture(20), picture(30)].concat();
        let labels = vec![Some("cat"), None, Some("犬")];
        let file = Samples { pictures: &pictures, size: [2, 2], mean, std, labels }.png().unwrap();
        let sheet = image::load_from_memory(&file).unwrap().to_rgb8();
        assert_eq!(sheet.dimensions(), (2 * (96 + 4) + 4, 96 + 8 + 8 + 4));
        assert_eq!((sheet[(4, 4)].0, sheet[(99, 99)].0), ([10, 255, 0], [10, 255, 0]));
        assert_eq!((sheet[(100, 4)].0, sheet[(104, 4)].0), ([255; 3], [30, 255, 0]));
        let black = |left: u32, right: u32| {
            (left..right).flat_map(|x| (102..110).map(move |y| (x, y))).filter(|&at| sheet[at].0 == [0; 3]).count()
        };
        assert!(black(4, 28) > 20 && black(28, 100) == 0, "three letters");
        assert_eq!(black(104, 112), 16, "a box");
    }
}
