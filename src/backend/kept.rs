//! What a compiler made, kept in files from run to run. A file that is not whole counts as none.

use std::fs;
use std::io::Write;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use crate::formats::atomic;

/// A larger file is not read.
const MOST_BYTES: u64 = 64 << 20;

/// What a file holds, if it is there and whole.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    if fs::metadata(path).ok()?.len() > MOST_BYTES {
        return None;
    }
    let mut bytes = fs::read(path).ok()?;
    let checksum = u64::from_le_bytes(*bytes.first_chunk()?);
    bytes.drain(..8);
    (xxh3_64(&bytes) == checksum).then_some(bytes)
}

/// Writes a file, and the folder that it is in. Best effort: without the file the next start takes longer.
pub(super) fn write(path: &Path, data: &[u8]) {
    let _ = path.parent().map(fs::create_dir_all);
    let _ = atomic::write(path, |file| {
        file.write_all(&xxh3_64(data).to_le_bytes())?;
        file.write_all(data)
    });
}
