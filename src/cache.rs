//! The folder in which convoy keeps, from run to run, what it would have to find out again: `convoy` in the user's folder of caches
//! (`$XDG_CACHE_HOME` or `~/.cache` on Linux). All of it can be deleted.

use std::path::{Path, PathBuf};

use crate::data::cache::folder_of;
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
    Ok(folder()?.join(TUNING))
}

/// The folder of what drivers compiled.
///
/// # Errors
/// As [`folder`].
pub fn pipelines() -> Result<PathBuf> {
    Ok(folder()?.join(PIPELINES))
}

/// Name of the folder of decoded pictures.
pub(crate) const PICTURES: &str = "decoded";
const TUNING: &str = "tuning";
/// Name of the folder of what drivers compiled.
pub const PIPELINES: &str = "pipelines";
/// The kinds of caches, and the extensions of their files, the first that of what is kept.
const KINDS: [(&str, &[&str]); 3] =
    [(PICTURES, &["pictures", "lock"]), (TUNING, &["json", "tmp"]), (PIPELINES, &["bin", "tmp"])];

/// The folder of decoded pictures.
///
/// # Errors
/// As [`folder`].
pub fn pictures() -> Result<PathBuf> {
    Ok(folder()?.join(PICTURES))
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
    /// The folder whose decoded pictures it keeps, if it does.
    pub of: Option<PathBuf>,
}

/// All files below `folder`, in order; none where it does not exist.
///
/// # Errors
/// When a folder cannot be read.
pub fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (kind, extensions) in KINDS {
        for path in list(&folder.join(kind))? {
            if path.extension().is_some_and(|extension| extension == extensions[0]) {
                let bytes = path.metadata().map_or(0, |metadata| metadata.len());
                let of = if kind == PICTURES { folder_of(&path) } else { None };
                entries.push(Entry { kind: kind.to_string(), path, bytes, of });
            }
        }
    }
    Ok(entries)
}

/// Deletes all that is kept in `folder`, and `folder` if nothing else is in it.
///
/// # Errors
/// When something cannot be deleted.
pub fn clear(folder: &Path) -> Result<()> {
    for (kind, extensions) in KINDS {
        let home = folder.join(kind);
        for path in list(&home)? {
            if path.extension().is_some_and(|extension| extensions.iter().any(|own| extension == *own)) {
                std::fs::remove_file(&path).map_err(Error::io("cannot delete the cache", &path))?;
            }
        }
        let _ = std::fs::remove_dir(home); // what a user keeps there stays
    }
    let _ = std::fs::remove_dir(folder);
    Ok(())
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
        std::fs::create_dir_all(folder.join("decoded")).unwrap();
        std::fs::write(folder.join("decoded/cat.jpg"), "of a user who chose this folder").unwrap();
        assert_eq!(entries(&folder).unwrap(), [Entry { kind: "tuning".into(), path, bytes: 2, of: None }]);
        clear(&folder).unwrap();
        assert!(folder.join("decoded/cat.jpg").exists() && !folder.join("tuning").exists());
        std::fs::remove_file(folder.join("decoded/cat.jpg")).unwrap();
        clear(&folder).unwrap();
        assert!(!folder.exists() && home.path().exists());
    }
}
