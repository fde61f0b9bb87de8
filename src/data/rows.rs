//! The memory of a batch, whose rows several threads fill at the same time.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows of bytes, each filled once.
pub(super) struct Rows {
    bytes: Box<[UnsafeCell<u8>]>,
    row: usize,
    /// Rows that were or are being filled.
    taken: Box<[AtomicBool]>,
}

// SAFETY: the bytes of a row are reached only by `fill`, which lets one thread in, and by `into_bytes`, which owns them.
unsafe impl Sync for Rows {}

impl Rows {
    /// Rows of `row` bytes in the memory of `spare`, if it is as large.
    pub fn new(rows: usize, row: usize, spare: Option<Vec<u8>>) -> Self {
        let bytes = spare.filter(|spare| spare.len() == rows * row).unwrap_or_else(|| vec![0; rows * row]);
        let bytes = Box::into_raw(bytes.into_boxed_slice()) as *mut [UnsafeCell<u8>];
        // SAFETY: an UnsafeCell<u8> has the layout of a u8, and nobody else has the box.
        let bytes = unsafe { Box::from_raw(bytes) };
        Rows { bytes, row, taken: (0..rows).map(|_| AtomicBool::new(false)).collect() }
    }

    /// Hands row `n` to `write`.
    ///
    /// # Panics
    /// If it was filled before, or there is no such row.
    pub fn fill<T>(&self, n: usize, write: impl FnOnce(&mut [u8]) -> T) -> T {
        assert!(!self.taken[n].swap(true, Ordering::AcqRel), "row {n} is filled twice");
        let row = &self.bytes[n * self.row..(n + 1) * self.row];
        // SAFETY: no one else reaches this row, as the assertion shows; cells may be written through a shared reference.
        write(unsafe { std::slice::from_raw_parts_mut(row.as_ptr() as *mut u8, row.len()) })
    }

    /// All rows; those that were not filled are zero.
    pub fn into_bytes(self) -> Vec<u8> {
        let bytes = Box::into_raw(self.bytes) as *mut [u8];
        // SAFETY: as in `new`.
        let mut bytes = unsafe { Box::from_raw(bytes) };
        for (row, taken) in bytes.chunks_exact_mut(self.row.max(1)).zip(self.taken) {
            if !taken.into_inner() {
                row.fill(0);
            }
        }
        bytes.into_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_fill_rows_of_their_own() {
        let rows = Rows::new(40, 1000, Some(vec![77; 40_000]));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let rows = &rows;
                scope.spawn(move || (thread..36).step_by(4).for_each(|n| rows.fill(n, |row| row.fill(n as u8 + 1))));
            }
        });
        let bytes = rows.into_bytes();
        let expected = |n: usize| if n < 36 { n as u8 + 1 } else { 0 };
        assert!(bytes.chunks(1000).enumerate().all(|(n, row)| row.iter().all(|&byte| byte == expected(n))));
    }

    #[test]
    #[should_panic = "row 1 is filled twice"]
    fn a_row_is_filled_once() {
        let rows = Rows::new(2, 3, Some(vec![0; 5]));
        rows.fill(1, |_| ());
        rows.fill(1, |_| ());
    }
}
