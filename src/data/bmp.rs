//! The pixels of a BMP file: palettes of 1 to 8 bits, plain or run-length encoded, and 16 to 32 bits with any channel masks. Of
//! the crates that read BMP alone, none was found that reads all of these rightly.
//!
//! Source: Microsoft's "Bitmap Storage" and `BITMAPINFOHEADER`, `BITMAPV4HEADER`, `BITMAPCOREHEADER`.

/// What the headers say.
pub(super) struct Bmp<'a> {
    pub width: usize,
    pub height: usize,
    top_down: bool,
    bits: usize,
    compression: Compression,
    /// Red, green, blue, alpha, of 16 and 32 bits.
    masks: [u32; 4],
    palette: Vec<[u8; 3]>,
    data: &'a [u8],
}

#[derive(PartialEq, Eq)]
enum Compression {
    None,
    /// Runs of (count, palette index or two of 4 bits).
    Runs,
}

/// Why a file is refused: `None` when it ends early.
type Refusal = Option<String>;

fn number(bytes: &[u8], at: usize, size: usize) -> Result<u32, Refusal> {
    let digits = bytes.get(at..at + size).ok_or(None)?;
    Ok(digits.iter().rev().fold(0, |number, &digit| number << 8 | digit as u32))
}

impl<'a> Bmp<'a> {
    /// Reads the headers of a file that begins with "BM".
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Refusal> {
        const FILE_HEADER: usize = 14;
        let u16_at = |at| number(bytes, at, 2);
        let u32_at = |at| number(bytes, at, 4);
        let header = u32_at(FILE_HEADER)? as usize;
        let old = header == 12; // BITMAPCOREHEADER
        if !old && !(16..=4096).contains(&header) {
            return Err(Some(format!("a BMP header of {header} bytes is not known")));
        }
        let field = |at: usize| if at < header { u32_at(FILE_HEADER + at) } else { Ok(0) };
        let (width, height, bits) = if old {
            (u16_at(18)? as i32, u16_at(20)? as i32, u16_at(24)?)
        } else {
            (u32_at(18)? as i32, u32_at(22)? as i32, u16_at(28)?)
        };
        let method = if old { 0 } else { field(16)? };
        let compression = match (method, bits) {
            (0, 1 | 2 | 4 | 8 | 16 | 24 | 32) | (3 | 6, 16 | 32) => Compression::None,
            (1, 8) | (2, 4) => Compression::Runs,
            _ => return Err(Some(format!("BMP of {bits} bits with compression {method} is not supported"))),
        };
        let default_masks = if bits == 16 { [0x7C00, 0x03E0, 0x001F, 0] } else { [0xFF_0000, 0xFF00, 0xFF, 0] };
        let masks = if method == 0 {
            default_masks
        } else {
            // In the header from its version 2 (52 bytes) on, behind it before; alpha's from version 3 or of method 6.
            let alpha = if header >= 56 || method == 6 { u32_at(66)? } else { 0 };
            [u32_at(54).unwrap_or(0), u32_at(58).unwrap_or(0), u32_at(62).unwrap_or(0), alpha]
        };
        let entry = if old { 3 } else { 4 };
        let colors = match if old { 0 } else { field(32)? as usize } {
            _ if bits > 8 => 0,
            0 => 1 << bits,
            said => said.min(1 << bits),
        };
        let color = |n: usize| {
            let at = FILE_HEADER + header + n * entry;
            Ok([number(bytes, at + 2, 1)? as u8, number(bytes, at + 1, 1)? as u8, number(bytes, at, 1)? as u8])
        };
        // The pixels end a palette that is shorter than it says.
        let front = FILE_HEADER + header;
        let start = u32_at(10)? as usize;
        let room = if start > front { (start - front) / entry } else { colors };
        let palette: Vec<_> = (0..colors.min(room)).map(color).collect::<Result<_, Refusal>>()?;
        let start = start.max(front + palette.len() * entry);
        Ok(Self {
            width: usize::try_from(width).unwrap_or(0),
            height: height.unsigned_abs() as usize,
            top_down: height < 0,
            bits: bits as usize,
            compression,
            masks,
            palette,
            data: bytes.get(start..).ok_or(None)?,
        })
    }

    /// RGBA, `[height, width, 4]`.
    pub(super) fn rgba(&self) -> Result<Vec<u8>, Refusal> {
        let indices = match self.compression {
            Compression::Runs => Some(self.runs()?),
            Compression::None => None,
        };
        let row_bytes = (self.width * self.bits).div_ceil(32) * 4;
        let rows = if indices.is_some() { 0 } else { self.height };
        // The padding of the last row may be missing.
        let needed =
            rows.saturating_sub(1) * row_bytes + if rows > 0 { (self.width * self.bits).div_ceil(8) } else { 0 };
        if self.data.len() < needed {
            return Err(None);
        }
        let mut rgba = Vec::with_capacity(self.width * self.height * 4);
        for y in 0..self.height {
            let stored = if self.top_down { y } else { self.height - 1 - y };
            for x in 0..self.width {
                let bit = stored * row_bytes * 8 + x * self.bits;
                rgba.extend(match (&indices, self.bits) {
                    (Some(indices), _) => self.color(indices[stored * self.width + x] as usize),
                    (None, 16 | 32) => self.masked(number(self.data, bit / 8, self.bits / 8)?),
                    (None, 24) => {
                        let bgr = &self.data[bit / 8..];
                        [bgr[2], bgr[1], bgr[0], 255]
                    }
                    (None, bits) => {
                        self.color((self.data[bit / 8] >> (8 - bits - bit % 8)) as usize & ((1 << bits) - 1))
                    }
                });
            }
        }
        Ok(rgba)
    }

    /// An index past the palette is black.
    fn color(&self, index: usize) -> [u8; 4] {
        let [r, g, b] = self.palette.get(index).copied().unwrap_or_default();
        [r, g, b, 255]
    }

    fn masked(&self, pixel: u32) -> [u8; 4] {
        let channel = |mask: u32, absent: u8| match mask {
            0 => absent,
            _ => {
                let largest = (mask >> mask.trailing_zeros()) as u64;
                let value = ((pixel & mask) >> mask.trailing_zeros()) as u64;
                ((value * 255 + largest / 2) / largest) as u8
            }
        };
        let [red, green, blue, alpha] = self.masks;
        [channel(red, 0), channel(green, 0), channel(blue, 0), channel(alpha, 255)]
    }

    /// Palette indices in the order stored, `[height, width]`; what the runs leave out is 0.
    fn runs(&self) -> Result<Vec<u8>, Refusal> {
        // Two bytes make a run of 255 at most: a picture of a hundred times that is a file cut short, or a trap.
        if self.width * self.height > 12_800 * self.data.len() {
            return Err(None);
        }
        let mut indices = vec![0; self.width * self.height];
        let (mut x, mut y) = (0, 0);
        let mut bytes = self.data.iter().copied();
        let mut put = |x: &mut usize, y: usize, index: u8| {
            if *x < self.width && y < self.height {
                indices[y * self.width + *x] = index;
            }
            *x += 1;
        };
        let half = |byte: u8, n: usize| if self.bits == 8 { byte } else { byte >> (4 * (1 - n % 2)) & 15 };
        // Some writers leave out the end behind the last pixel.
        while y + 1 < self.height || (y < self.height && (x < self.width || bytes.len() > 0)) {
            match (bytes.next().ok_or(None)?, bytes.next().ok_or(None)?) {
                (0, 0) => (x, y) = (0, y + 1), // end of the row
                (0, 1) => break,               // end of the picture
                (0, 2) => {
                    x += bytes.next().ok_or(None)? as usize;
                    y += bytes.next().ok_or(None)? as usize;
                }
                (0, count) => {
                    let size = (count as usize * self.bits).div_ceil(8);
                    let literal: Vec<u8> = bytes.by_ref().take(size + size % 2).collect();
                    if literal.len() < size {
                        return Err(None);
                    }
                    (0..count as usize).for_each(|n| put(&mut x, y, half(literal[n * self.bits / 8], n)));
                }
                (count, byte) => (0..count as usize).for_each(|n| put(&mut x, y, half(byte, n))),
            }
        }
        Ok(indices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of a 40-byte header: `extra` (masks, palette) follows it.
    fn file(size: [i32; 2], bits: u16, compression: u32, extra: &[u8], data: &[u8]) -> Vec<u8> {
        let start = 54 + extra.len() as u32;
        let mut bytes = b"BM\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend([start, 40, size[0] as u32, size[1] as u32].map(u32::to_le_bytes).concat());
        bytes.extend([1, bits].map(u16::to_le_bytes).concat());
        bytes.extend([compression, data.len() as u32, 0, 0, 0, 0].map(u32::to_le_bytes).concat());
        [&bytes, extra, data].concat()
    }

    /// The pixels' colours, row by row from the top, a letter each.
    fn letters(file: &[u8]) -> String {
        let bmp = Bmp::new(file).map_err(|reason| format!("{reason:?}")).unwrap();
        let rgba = bmp.rgba().unwrap();
        assert_eq!(rgba.len(), bmp.width * bmp.height * 4);
        let letter = |pixel: &[u8]| match pixel {
            [255, 0, 0, 255] => 'r',
            [0, 255, 0, 255] => 'g',
            [0, 0, 255, 255] => 'b',
            [0, 0, 0, 255] => '.',
            other => panic!("unexpected colour {other:?}"),
        };
        rgba.chunks(4).map(letter).collect()
    }

    /// Black, red, green, blue.
    fn palette(colors: usize) -> Vec<u8> {
        let mut palette = [[0, 0, 0, 0], [0, 0, 255, 0], [0, 255, 0, 0], [255, 0, 0, 0]].concat();
        palette.resize(colors * 4, 99);
        palette
    }

    #[test]
    fn palettes_of_every_width_bottom_up() {
        // Shown: "rg" above ".b"; the lower row is stored first.
        let rows = |rows: [u8; 2]| [rows[0], 0, 0, 0, rows[1], 0, 0, 0];
        assert_eq!(letters(&file([2, 2], 1, 0, &palette(2), &rows([0b0100_0000, 0b1000_0000]))), "r..r");
        assert_eq!(letters(&file([2, 2], 2, 0, &palette(4), &rows([0b0011_0000, 0b0110_0000]))), "rg.b");
        assert_eq!(letters(&file([2, 2], 4, 0, &palette(16), &rows([0x03, 0x12]))), "rg.b");
        assert_eq!(letters(&file([2, 2], 8, 0, &palette(256), &[0, 3, 0, 0, 1, 2, 0, 0])), "rg.b");
        assert_eq!(letters(&file([2, -2], 4, 0, &palette(16), &rows([0x12, 0x03]))), "rg.b");
    }

    #[test]
    fn true_colour_and_masks() {
        let row = |pixels: [u16; 2]| pixels.map(u16::to_le_bytes).concat();
        let masks = |masks: [u32; 3]| masks.map(u32::to_le_bytes).concat();
        assert_eq!(letters(&file([2, 1], 16, 0, &[], &row([0x7C00, 0x03E0]))), "rg");
        assert_eq!(letters(&file([2, 1], 16, 3, &masks([0xF800, 0x07E0, 0x001F]), &row([0x07E0, 0x001F]))), "gb");
        assert_eq!(letters(&file([2, 1], 24, 0, &[], &[0, 0, 255, 255, 0, 0])), "rb"); // no padding
        assert_eq!(letters(&file([1, 2], 32, 0, &[], &[0, 0, 255, 7, 0, 255, 0, 7])), "gr"); // the fourth byte says nothing
        let red_lowest = masks([0xFF, 0xFF00, 0xFF_0000]);
        assert_eq!(letters(&file([1, 2], 32, 3, &red_lowest, &[0, 0, 255, 0, 255, 0, 0, 0])), "rb");
    }

    #[test]
    fn runs() {
        // Lower row: three of red; upper row: a literal of three, padded; end.
        let eight = [3, 1, 0, 0, 0, 3, 2, 3, 2, 0, 0, 1];
        assert_eq!(letters(&file([3, 2], 8, 1, &palette(256), &eight)), "gbgrrr");
        let four = [3, 0x12, 0, 0, 0, 3, 0x23, 0x20, 0, 1];
        assert_eq!(letters(&file([3, 2], 4, 2, &palette(16), &four)), "gbgrgr");
        // A step of (1, 1) leaves black; a run longer than the row does no harm.
        assert_eq!(letters(&file([3, 2], 8, 1, &palette(256), &[0, 2, 1, 1, 200, 3, 0, 1])), ".bb...");
    }

    #[test]
    fn what_writers_leave_out() {
        // No end behind the last pixel, a palette of four colours in a file of eight bits.
        assert_eq!(letters(&file([3, 2], 8, 1, &palette(4), &[3, 1, 0, 0, 3, 2])), "gggrrr");
        assert_eq!(letters(&file([2, 1], 8, 0, &palette(4), &[1, 3, 0, 0])), "rb");
        // An offset of 0: the pixels follow the headers.
        let mut bytes = file([2, 1], 24, 0, &[], &[0, 0, 255, 255, 0, 0, 0, 0]);
        bytes[10..14].fill(0);
        assert_eq!(letters(&bytes), "rb");
        // A few bytes do not make a hundred million pixels.
        let trap = Bmp::new(&file([10_000, 10_000], 8, 1, &palette(4), &[0, 1])).and_then(|bmp| bmp.rgba());
        assert_eq!(trap.err(), Some(None));
    }

    #[test]
    fn early_ends_and_foreign_headers() {
        let whole = file([2, 2], 8, 0, &palette(256), &[0, 3, 0, 0, 1, 2]);
        assert_eq!(letters(&whole), "rg.b");
        for kept in 18..whole.len() {
            let short = Bmp::new(&whole[..kept]).and_then(|bmp| bmp.rgba());
            assert_eq!(short.err(), Some(None), "{kept} bytes");
        }
        let jpeg_inside = file([2, 2], 24, 4, &[], &[0; 16]);
        let refusal = Bmp::new(&jpeg_inside).err().flatten();
        assert_eq!(refusal.as_deref(), Some("BMP of 24 bits with compression 4 is not supported"));
    }
}
