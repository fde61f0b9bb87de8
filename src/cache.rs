//! The folder in which convoy keeps, from run to run, what it would have to find out again: `convoy` in the user's folder of caches
//! (`$XDG_CACHE_HOME` or `~/.cache` on Linux). All of it can be deleted.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The folder, which may not exist yet.
///
/// # Errors
/// When the system says no folder of caches.
pub fn folder() -> Result<PathBuf> {
    let caches = dirs::cache_dir();
    caches
        .map(|caches| caches.join("convoy"))
        .ok_or_else(|| Error::input("this system says no folder for caches: set HOME, or XDG_CACHE_HOME to a folder"))
}

/// The folder of what the autotuner found.
///
/// # Errors
/// As [`folder`].
pub fn tuning() -> Result<PathBuf> {
    Ok(folder()?.join("tuning"))
}

/// A file that is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The folder in `folder` that it is in: what it is a cache of.
    pub kind: String,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// All files below `folder`, in order; none where it does not exist.
///
/// # Errors
/// When a folder cannot be read.
pub fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for kind in list(folder)?.iter().filter(|path| path.is_dir()) {
        let name = kind.file_name().unwrap_or_default().to_string_lossy();
        for path in list(kind)? {
            let bytes = path.metadata().map_or(0, |metadata| metadata.len());
            entries.push(Entry { kind: name.to_string(), path, bytes });
        }
    }
    Ok(entries)
}

/// Deletes `folder` and all in it.
///
/// # Errors
/// When something cannot be deleted.
pub fn clear(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("cannot delete the cache", folder)(error))
        }
        _ => Ok(()),
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("cannot read the cache", folder))?,
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_listed_and_cleared() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("convoy");
        assert_eq!(entries(&folder).unwrap(), []);
        clear(&folder).unwrap();
        std::fs::create_dir_all(folder.join("tuning")).unwrap();
        let path = folder.join("tuning/a.json");
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(entries(&folder).unwrap(), [Entry { kind: "tuning".into(), path, bytes: 2 }]);
        clear(&folder).unwrap();
        assert!(!folder.exists() && home.path().exists());
    }
}
