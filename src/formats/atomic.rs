//! Writes a file beside its place, syncs it and renames it: a crash or a full disk at any moment leaves the last good one.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use crate::error::{Error, Result};

const PREFIX: &str = ".convoy-";
const SUFFIX: &str = ".tmp";

/// Removes the temporary files of a process that was killed while it wrote into `folder`. Best effort: they do no harm but take room.
pub fn remove_leftovers(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Replaces `path` by what `content` writes. On failure `path` is as it was and the temporary file is gone.
///
/// # Errors
/// [`Error::Io`] with the system's reason: no such folder, no permission, no space.
pub fn write(path: &Path, content: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>) -> Result<()> {
    replace(path, content).map_err(Error::io("cannot write the file", path))
}

fn replace(path: &Path, content: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    {
        // As any new file: the process's umask decides. (tempfile's default is for secrets.)
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    // The error would tell the temporary name.
    let file = builder.tempfile_in(folder).map_err(|error| match error.kind() {
        ErrorKind::NotFound => std::io::Error::new(ErrorKind::NotFound, "the folder is not there"),
        kind => kind.into(),
    })?;
    let mut writer = BufWriter::with_capacity(1 << 20, file.as_file());
    content(&mut writer)?;
    writer.flush()?;
    drop(writer);
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    // The rename is on the disk once the folder is; some file systems cannot sync a folder, and the file is whole either way.
    #[cfg(unix)]
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_the_last_good_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, |w| w.write_all(b"good")).unwrap();
        let full = |w: &mut BufWriter<&File>| {
            w.write_all(b"half")?;
            Err(std::io::ErrorKind::StorageFull.into())
        };
        let error = write(&path, full).unwrap_err().to_string();
        assert!(error.contains("cannot write the file"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"good");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::write(folder.path().join(".convoy-Xy12.tmp"), b"killed").unwrap();
        std::fs::write(folder.path().join("mine.tmp"), b"kept").unwrap();
        remove_leftovers(folder.path());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
