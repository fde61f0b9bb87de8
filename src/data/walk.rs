//! What lies in folders: pictures, told from other files, and links that may form loops.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::format::{self, Format};
use crate::error::{Error, Result};

const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "bmp", "gif"];

/// All pictures in `dir` and the folders inside, told from other files as [`super::scan`] does, in the order of their
/// paths; for those without labels.
///
/// # Errors
/// [`Error::Input`] if there is none; [`Error::Io`] if the folder cannot be listed.
pub fn pictures(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = match fs::read_dir(dir) {
        Err(error) => return Err(Error::io("cannot list the folder", dir)(error)),
        Ok(_) => Walk::except(None).files(dir, "")?,
    };
    if files.is_empty() {
        return Err(Error::input(format!(
            "{}: no pictures; expected JPEG, PNG, WebP, BMP or GIF files",
            dir.display()
        )));
    }
    files.sort_by(|a, b| a.relative.cmp(&b.relative));
    Ok(files.into_iter().map(|file| file.path).collect())
}

/// A picture file.
pub(super) struct Picture {
    pub path: PathBuf,
    /// Its path with forward slashes, from where the walk began.
    pub relative: String,
}

/// Something in a folder that is not hidden.
pub(super) struct Entry {
    pub path: PathBuf,
    pub name: String,
    pub folder: bool,
}

impl Entry {
    /// Whether the file is taken for a picture: by a known extension, else by its first bytes. What it really is shows
    /// when it is decoded.
    pub fn is_picture(&self) -> bool {
        let extension = self.path.extension().unwrap_or_default();
        EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)) || {
            let mut begin = Vec::with_capacity(format::MAGIC_BYTES);
            let read = File::open(&self.path)
                .and_then(|file| file.take(format::MAGIC_BYTES as u64).read_to_end(&mut begin))
                .is_ok();
            read && Format::of(&begin).is_ok()
        }
    }
}

/// The folders and files in `dir`, through symbolic links, sorted by name. A dangling link counts as a file, so that a
/// picture that has gone is reported; pipes, sockets and devices are left out, for reading one could block.
pub(super) fn entries(dir: &Path) -> Result<Vec<Entry>> {
    let failed = || Error::io("cannot list the folder", dir);
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let (path, name) = (entry.path(), readable(&entry.file_name()));
        let mut kind = entry.file_type().map_err(failed())?;
        if kind.is_symlink() {
            kind = fs::metadata(&path).map_or(kind, |target| target.file_type());
        }
        if !name.starts_with('.') && (kind.is_dir() || kind.is_file() || kind.is_symlink()) {
            entries.push(Entry { path, name, folder: kind.is_dir() });
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// A name as text: what is no UTF-8 in it as `\\xF0`, so that different names stay different.
fn readable(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        text += chunk.valid();
        chunk.invalid().iter().for_each(|byte| text += &format!("\\x{byte:02X}"));
    }
    text
}

/// Collects pictures from a folder and those inside it.
pub(super) struct Walk {
    /// Real paths of the folders that are done: symbolic links may form loops.
    visited: HashSet<PathBuf>,
    /// The real path of what is left out.
    except: Option<PathBuf>,
    /// Folders that may not be listed.
    pub unlisted: Vec<PathBuf>,
}

impl Walk {
    /// A walk that leaves out one folder, wherever it meets it.
    pub fn except(folder: Option<&Path>) -> Walk {
        let except = folder.and_then(|folder| folder.canonicalize().ok());
        Walk { visited: HashSet::new(), except, unlisted: Vec::new() }
    }

    /// Whether a real path is of what is left out.
    pub fn leaves_out(&self, real: &Path) -> bool {
        self.except.as_ref().is_some_and(|except| real.starts_with(except))
    }

    /// The pictures below `dir`, whose own path is to read `relative`.
    pub fn files(&mut self, dir: &Path, relative: &str) -> Result<Vec<Picture>> {
        let mut pictures = Vec::new();
        self.folder(dir, relative, &mut pictures)?;
        Ok(pictures)
    }

    fn folder(&mut self, dir: &Path, relative: &str, pictures: &mut Vec<Picture>) -> Result<()> {
        let real = dir.canonicalize().map_err(Error::io("cannot read the folder", dir))?;
        // A link to a folder above would bring in the other classes.
        let above = dir.parent().and_then(|parent| parent.canonicalize().ok()).is_some_and(|at| at.starts_with(&real));
        if above || self.leaves_out(&real) || !self.visited.insert(real) {
            return Ok(());
        }
        let entries = match entries(dir) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
                self.unlisted.push(dir.into());
                return Ok(());
            }
            entries => entries?,
        };
        for entry in entries {
            let relative = format!("{relative}/{}", entry.name);
            if entry.folder {
                self.folder(&entry.path, &relative, pictures)?;
            } else if entry.is_picture() {
                pictures.push(Picture { path: entry.path, relative });
            }
        }
        Ok(())
    }
}
