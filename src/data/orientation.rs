//! Which way up a picture is, as EXIF has it, and the turn to it.

use super::pixels::{Pixels, Stored};

/// The orientation that an EXIF block tells: tag 0x0112 of a TIFF block's first directory, 1 to 8.
pub(super) fn of_exif(block: &[u8]) -> Option<u8> {
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

impl Stored {
    /// As `orientation` of the EXIF standard's table says.
    pub(super) fn turned<const CHANNELS: usize>(&self, orientation: u8) -> Pixels {
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
        Pixels { width, height, rgb, damage: self.damage }
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
