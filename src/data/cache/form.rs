//! The form of a file of decoded pictures: header, then chunks of an index and as many slots.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::data::Resize;
use crate::error::{Error, Result};

/// Version of the file's form.
pub(super) const FORM: u32 = 2;
const HEADER_BYTES: u64 = 4096;
/// Slots of a chunk.
pub(super) const SLOTS: u64 = 1024;
const ENTRY_BYTES: u64 = 64;
/// What the pictures in a file are: its first line, as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub convoy_pictures: u32,
    pub pixels_version: u32,
    pub folder: PathBuf,
    pub height: usize,
    pub width: usize,
    pub resize: Resize,
}

/// What the index says of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Entry {
    pub stamp: u128,
    pub checksum: u64,
    pub damage: u8,
}

impl Entry {
    pub fn bytes(self) -> [u8; ENTRY_BYTES as usize] {
        let mut bytes = [0; ENTRY_BYTES as usize];
        bytes[..16].copy_from_slice(&self.stamp.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[24] = self.damage;
        let own = xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// `None` where no entry was written, or not all of it.
    pub fn of(bytes: &[u8]) -> Option<Entry> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        let entry =
            Entry { stamp: number(0) as u128 | (number(8) as u128) << 64, checksum: number(16), damage: bytes[24] };
        (entry.bytes() == bytes).then_some(entry)
    }
}

/// The folder whose pictures the file at `path` keeps; `None` if it is not such a file.
pub(crate) fn folder_of(path: &Path) -> Option<PathBuf> {
    let mut begin = Vec::new();
    File::open(path).ok()?.take(HEADER_BYTES).read_to_end(&mut begin).ok()?;
    let line = begin.split(|&byte| byte == b'\n').next()?;
    serde_json::from_slice::<Header>(line).ok().map(|header| header.folder)
}

/// The header's line, filled up to its size.
pub(super) fn header_text(header: &Header) -> Result<Vec<u8>> {
    let failed = |what: String| Error::input(format!("{}: {what}", header.folder.display()));
    let mut text = serde_json::to_vec(header).map_err(|e| failed(e.to_string()))?;
    text.push(b'\n');
    if text.len() as u64 > HEADER_BYTES {
        return Err(failed("the path is too long to keep decoded pictures".into()));
    }
    text.resize(HEADER_BYTES as usize, 0);
    Ok(text)
}

/// The file at `path`, if it begins with `header`. Where it may not be written it can still be read.
pub(super) fn open_file(path: &Path, header: &[u8]) -> Option<File> {
    let file = File::options().read(true).write(true).open(path).or_else(|_| File::open(path)).ok()?;
    let mut begin = vec![0; header.len()];
    read_at(&file, &mut begin, 0).ok()?;
    (begin == header).then_some(file)
}

/// A new file with this header; one of before goes on for those who have it open.
pub(super) fn new_file(path: &Path, header: &[u8]) -> Result<File> {
    let failed = || Error::io("cannot make the file for decoded pictures", path);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed()(error)),
        _ => {}
    }
    let mut file = File::options().read(true).write(true).create_new(true).open(path).map_err(failed())?;
    file.write_all(header).map_err(failed())?;
    Ok(file)
}

/// The file that another process, which has the right to, is about to make.
pub(super) fn awaited(path: &Path, header: &[u8]) -> Result<File> {
    for _ in 0..100 {
        if let Some(file) = open_file(path, header) {
            return Ok(file);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(Error::input(format!(
        "{}: another process has this file of decoded pictures, or it may not be written",
        path.display()
    )))
}

/// All entries up to the last that was written; those between that were not are empty.
pub(super) fn read_entries(file: &File, row: u64) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut chunk = vec![0; (SLOTS * ENTRY_BYTES) as usize];
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    for first in (0..u32::MAX).step_by(SLOTS as usize) {
        let start = entry_offset(first, row);
        let there = length.saturating_sub(start).min(chunk.len() as u64) as usize;
        if there < ENTRY_BYTES as usize || read_at(file, &mut chunk[..there], start).is_err() {
            break;
        }
        entries.extend(chunk[..there].chunks_exact(ENTRY_BYTES as usize).map(|e| Entry::of(e).unwrap_or_default()));
    }
    let written = entries.iter().rposition(|entry| *entry != Entry::default()).map_or(0, |last| last + 1);
    entries.truncate(written);
    entries
}

pub(super) fn entry_offset(slot: u32, row: u64) -> u64 {
    let (chunk, place) = (slot as u64 / SLOTS, slot as u64 % SLOTS);
    HEADER_BYTES + chunk * SLOTS * (ENTRY_BYTES + row) + place * ENTRY_BYTES
}

pub(super) fn slot_offset(slot: u32, row: u64) -> u64 {
    let (chunk, place) = (slot as u64 / SLOTS, slot as u64 % SLOTS);
    HEADER_BYTES + chunk * SLOTS * (ENTRY_BYTES + row) + SLOTS * ENTRY_BYTES + place * row
}

#[cfg(unix)]
pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(unix)]
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
pub(super) fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => (bytes, offset) = (&mut bytes[read..], offset + read as u64),
        }
    }
    Ok(())
}

#[cfg(windows)]
pub(super) fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => (bytes, offset) = (&bytes[written..], offset + written as u64),
        }
    }
    Ok(())
}
