//! How much room files of decoded pictures may take, and which of them go.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Place;
use crate::error::{Error, Result};

/// Where the user has not chosen the folder, all its files together take no more.
const MOST_BYTES: u64 = 64 << 30;
/// The right to add to the file at `path`; `None` while another process has it.
pub(super) fn lock(path: &Path) -> Result<Option<File>> {
    let lock = path.with_extension("lock");
    let file = File::options().create(true).append(true).open(&lock);
    let file = file.map_err(Error::io("cannot make the file for decoded pictures", &lock))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(None),
        // A file system without locks: two processes that add would write over each other.
        Err(TryLockError::Error(_)) => Ok(None),
        Ok(()) => Ok(Some(file)),
    }
}

/// Bytes of pictures that the file at `path` may hold, and why not more; makes room for `wanted` by removing files that were not used
/// for the longest time.
pub(super) fn allowed(place: &Place, home: &Path, path: &Path, own: u64, wanted: u64) -> (u64, String) {
    let free = || fs4::available_space(home).unwrap_or(0);
    let gib = |bytes: u64| match bytes >> 30 {
        0 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / (1_u64 << 30) as f64),
    };
    // Of what is free or theirs, so that it does not grow with every run.
    let by_disk = |share: u64, others: u64, told: &str| {
        let room = own + others + free();
        (
            (room / 10 * share).saturating_sub(others),
            format!("{told} of the {} on the disk of {} that are free or theirs", gib(room), home.display()),
        )
    };
    match place {
        Place::Folder(_) => by_disk(9, 0, "they may take nine tenths"),
        Place::Own => {
            let mut others: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
            for entry in fs::read_dir(home).into_iter().flatten().flatten() {
                let (other, metadata) = (entry.path(), entry.metadata());
                if let (true, Ok(metadata)) =
                    (other.extension().is_some_and(|e| e == "pictures") && other != path, metadata)
                {
                    others.push((metadata.modified().unwrap_or(UNIX_EPOCH), other, metadata.len()));
                }
            }
            others.sort();
            let mut taken: u64 = others.iter().map(|(.., bytes)| bytes).sum();
            for (_, other, bytes) in &others {
                let full = taken + wanted > MOST_BYTES || wanted.saturating_sub(own) > free() / 2;
                // One that is in use stays.
                if full && lock(other).is_ok_and(|held| held.is_some()) && fs::remove_file(other).is_ok() {
                    let _ = fs::remove_file(other.with_extension("lock"));
                    taken -= bytes;
                }
            }
            let most = MOST_BYTES.saturating_sub(taken);
            let (disk, why) = by_disk(5, taken, "they may take half");
            match most <= disk {
                true => (most, format!("all of {} may take {}", home.display(), gib(MOST_BYTES))),
                false => (disk, why),
            }
        }
    }
}
