//! Pictures as they were decoded and resized, kept in one file per folder and setting, so that a JPEG is decoded once and not in every
//! epoch and run.
//!
//! The file is only ever added to. It has a header, then chunks: an index of [`SLOTS`] entries, and as many slots of one picture each.
//! An entry is written after its slot, and holds a stamp of the picture's file (path, size, times, number on its disk), a checksum of the pixels and one of
//! itself: what a crash left half-written, or the disk spoilt, is not found or not believed, and the picture is decoded again. What a
//! file held before it was changed is not found either, since its stamp is another. Slots are read with plain reads, not through mapped
//! memory: as fast here, and a file that is cut short under a run is a picture to decode, not a signal that ends the process.
//!
//! One process at a time adds to a file; others read what is there.

mod form;
mod room;

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::decode::PIXELS_VERSION;
use super::loader::locked;
use super::pixels::Damage;
use super::{Item, Resize};
use crate::cache::{self, PICTURES};
use crate::error::{Error, Result};
pub(crate) use form::folder_of;
use form::{Entry, FORM, Header, SLOTS};
use room::{allowed, lock};

/// No slot.
const NONE: u32 = u32::MAX;

/// The kept pictures of one data set, for the threads of its loaders.
pub struct PictureCache {
    path: PathBuf,
    file: File,
    row: u64,
    /// The right to add to the file.
    lock: Mutex<Option<File>>,
    /// Slots by stamp, as of the last look at the index.
    index: RwLock<HashMap<u128, u32>>,
    entries: RwLock<Vec<Entry>>,
    /// The slot that is filled next.
    next: AtomicU32,
    /// Slots that there may be.
    most: u32,
    /// Why no more pictures are added, if it was found out while adding.
    failure: Mutex<Option<String>>,
    failed: AtomicBool,
}

/// What a picture's file was when it was read: other content has another stamp.
fn stamp(item: &Item, metadata: &Metadata) -> Option<u128> {
    let modified = metadata.modified().ok()?;
    let since = |time: SystemTime| match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    };
    // What sets a file's time back leaves the time of the change; what puts another file in its place, as a clock ticks or in another
    // folder, leaves neither its number nor its disk's.
    #[cfg(unix)]
    let file = {
        use std::os::unix::fs::MetadataExt;
        [metadata.ctime() as u64, metadata.ctime_nsec() as u64, metadata.ino(), metadata.dev()]
    };
    #[cfg(not(unix))]
    let file = { [metadata.created().map_or(0, since) as u64, xxh3_64(item.path.as_os_str().as_encoded_bytes())] };
    let mut bytes = Vec::with_capacity(item.relative.len() + 64);
    bytes.extend(metadata.len().to_le_bytes());
    bytes.extend(since(modified).to_le_bytes());
    file.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    bytes.extend(item.relative.as_bytes());
    Some(xxh3_128(&bytes))
}

/// Damage as an entry's byte has it.
fn damage_byte(damage: Option<Damage>) -> u8 {
    match damage {
        None => 0,
        Some(Damage::Rows(percent)) => percent.min(100),
        Some(Damage::Scans) => 255,
    }
}

fn damage_of(byte: u8) -> Option<Damage> {
    match byte {
        0 => None,
        255 => Some(Damage::Scans),
        percent => Some(Damage::Rows(percent)),
    }
}

/// Where kept pictures are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the user's folder of caches, within bounds.
    Own,
    /// In this folder, as much as its disk has room for.
    Folder(PathBuf),
}

/// A picture whose pixels are asked for or added: an item and where its slot is, once that is known.
pub(super) struct Known {
    slot: AtomicU32,
}

impl Known {
    pub fn new() -> Self {
        Known { slot: AtomicU32::new(NONE) }
    }
}

impl PictureCache {
    /// Opens the file for the pictures of `folder` in this size, or begins it. Beside it, what the user should know: that not all of
    /// `pictures` will find room, for one.
    ///
    /// # Errors
    /// When the file can be neither read nor made.
    pub fn open(
        place: &Place,
        folder: &Path,
        size: [usize; 2],
        resize: Resize,
        pictures: usize,
    ) -> Result<(PictureCache, Option<String>)> {
        let home = match place {
            Place::Own => cache::pictures()?,
            Place::Folder(folder) => folder.join(PICTURES),
        };
        fs::create_dir_all(&home).map_err(Error::io("cannot make the folder for decoded pictures", &home))?;
        let folder = folder.canonicalize().map_err(Error::io("cannot read the folder", folder))?;
        let [height, width] = size;
        let header = Header { convoy_pictures: FORM, pixels_version: PIXELS_VERSION, folder, height, width, resize };
        let text = form::header_text(&header)?;
        let name: String = header.folder.file_name().unwrap_or_default().to_string_lossy().chars().take(40).collect();
        let path = home.join(format!("{name}-{height}x{width}-{:08x}.pictures", xxh3_64(&text) as u32));
        let lock = lock(&path).unwrap_or(None); // what may not be written may still be read
        let (file, entries) = match form::open_file(&path, &text) {
            Some(file) => {
                let entries = form::read_entries(&file, (height * width * 3) as u64);
                (file, entries)
            }
            None if lock.is_some() => (form::new_file(&path, &text)?, Vec::new()),
            None => (form::awaited(&path, &text)?, Vec::new()),
        };
        // A file most of whose pictures are of files that have been changed or removed begins anew.
        let (file, entries) = match lock.is_some() && entries.len() > 2 * pictures + SLOTS as usize {
            true => (form::new_file(&path, &text)?, Vec::new()),
            false => (file, entries),
        };
        let row = (height * width * 3) as u64;
        let own = entries.len() as u64 * row;
        let wanted = own.max(pictures as u64 * row);
        let (allowed, why) = allowed(place, &home, &path, own, wanted);
        // A full file that has more pictures than the folder begins anew too.
        let most = allowed / row;
        let (file, entries) = match lock.is_some() && entries.len() as u64 >= most && entries.len() > pictures {
            true => (form::new_file(&path, &text)?, Vec::new()),
            false => (file, entries),
        };
        let note = (pictures as u64 > most).then(|| {
            format!(
                "{most} of {pictures} decoded pictures will be kept: {why}. The others are decoded in every epoch; \
                 --cache with a folder on another disk keeps them there"
            )
        });
        let cache = PictureCache {
            path,
            file,
            row,
            lock: Mutex::new(lock),
            index: RwLock::new(index_of(&entries)),
            next: AtomicU32::new(entries.len() as u32),
            entries: RwLock::new(entries),
            most: most.min(NONE as u64 - 1) as u32,
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
        };
        let _ = cache.file.set_modified(SystemTime::now()); // the oldest are the first to go
        Ok((cache, note))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this process adds to it; else another does, or it may not be written.
    pub fn adds(&self) -> bool {
        locked(&self.lock).is_some()
    }

    /// Pictures in it.
    pub fn len(&self) -> usize {
        read(&self.index).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Why pictures are no longer added, told once.
    pub fn take_failure(&self) -> Option<String> {
        locked(&self.failure).take()
    }

    /// Looks for what another process has added meanwhile, unless it is this one that adds.
    pub(super) fn refresh(&self) {
        let mut held = locked(&self.lock);
        if held.is_some() {
            return;
        }
        *held = lock(&self.path).ok().flatten();
        let entries = form::read_entries(&self.file, self.row);
        self.next.store(entries.len() as u32, Ordering::Relaxed);
        *write(&self.index) = index_of(&entries);
        *write(&self.entries) = entries;
    }

    /// The kept pixels of `item` into `pixels`, if there are any of what its file holds now; what was known of it before, in this
    /// process, holds.
    pub(super) fn get(&self, item: &Item, known: &Known, pixels: &mut [u8]) -> Option<Option<Damage>> {
        let slot = match known.slot.load(Ordering::Relaxed) {
            NONE => {
                let stamp = stamp(item, &fs::metadata(&item.path).ok()?)?;
                *read(&self.index).get(&stamp)?
            }
            slot => slot,
        };
        let entry = *read(&self.entries).get(slot as usize)?;
        form::read_at(&self.file, pixels, form::slot_offset(slot, self.row)).ok()?;
        if xxh3_64(pixels) != entry.checksum {
            return None;
        }
        known.slot.store(slot, Ordering::Relaxed);
        Some(damage_of(entry.damage))
    }

    /// Keeps the pixels of `item`, which were read from a file of this metadata. What cannot be kept will be decoded again.
    pub(super) fn put(&self, item: &Item, known: &Known, metadata: &Metadata, pixels: &[u8], damage: Option<Damage>) {
        let Some(stamp) = stamp(item, metadata) else { return };
        if self.failed.load(Ordering::Relaxed) || locked(&self.lock).is_none() {
            return;
        }
        let free = |next: u32| (next < self.most).then(|| next + 1);
        let Ok(slot) = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free) else { return };
        let entry = Entry { stamp, checksum: xxh3_64(pixels), damage: damage_byte(damage) };
        let written = form::write_at(&self.file, pixels, form::slot_offset(slot, self.row))
            .and_then(|()| form::write_at(&self.file, &entry.bytes(), form::entry_offset(slot, self.row)));
        if let Err(error) = written {
            if !self.failed.swap(true, Ordering::Relaxed) {
                *locked(&self.failure) = Some(format!(
                    "{}: cannot keep more decoded pictures: {error}. The others are decoded in every epoch",
                    self.path.display()
                ));
            }
            return;
        }
        let mut entries = write(&self.entries);
        if entries.len() <= slot as usize {
            entries.resize(slot as usize + 1, Entry::default());
        }
        entries[slot as usize] = entry;
        drop(entries);
        write(&self.index).insert(stamp, slot);
        known.slot.store(slot, Ordering::Relaxed);
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn index_of(entries: &[Entry]) -> HashMap<u128, u32> {
    let written = entries.iter().enumerate().filter(|(_, entry)| **entry != Entry::default());
    written.map(|(slot, entry)| (entry.stamp, slot as u32)).collect()
}

#[cfg(test)]
mod tests;
