//! What the autotuner found, a file for each device.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::backend::{Choices, DeviceInfo, Precision};
use crate::error::{Error, Result};
use crate::formats::atomic;

/// Of one device, what its products multiply, and version of convoy.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    version: String,
    adapter: String,
    backend: String,
    driver: String,
    precision: String,
    /// What was found.
    pub choices: Choices,
}

impl Record {
    /// What is known of a device in `folder`; nothing before the first search.
    ///
    /// # Errors
    /// When the file cannot be read, or holds something else.
    pub fn load(folder: &Path, info: &DeviceInfo, precision: Precision) -> Result<Record> {
        let new = Record {
            version: env!("CARGO_PKG_VERSION").into(),
            adapter: info.name.clone(),
            backend: info.backend.clone(),
            driver: info.driver.clone(),
            precision: precision.name().into(),
            choices: Choices::new(),
        };
        let path = new.path(folder);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(new),
            Err(error) => return Err(Error::io("cannot read the tuning cache", &path)(error)),
        };
        let record: Record = serde_json::from_str(&text).map_err(|error| {
            Error::input(format!("{}: no tuning cache: {error}; delete it, or `convoy cache --clear`", path.display()))
        })?;
        // Two names may become one file's.
        let same = Record { choices: Choices::new(), ..record.clone() } == new;
        Ok(if same { record } else { new })
    }

    /// Writes it into `folder`, which is made where it is not, and says where.
    ///
    /// # Errors
    /// When the folder or the file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<PathBuf> {
        let path = self.path(folder);
        std::fs::create_dir_all(folder).map_err(Error::io("cannot make the folder", folder))?;
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::input(error.to_string()))?;
        atomic::write(&path, |file| file.write_all(text.as_bytes()))?;
        Ok(path)
    }

    fn path(&self, folder: &Path) -> PathBuf {
        let Record { version, adapter, backend, driver, precision, .. } = self;
        let text = format!("{adapter} {backend} {driver} {precision} {version}").to_lowercase();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        // File systems take names of 255 bytes.
        let mut name = words.collect::<Vec<_>>().join("-");
        name.truncate(200);
        folder.join(name + ".json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu;

    #[test]
    fn what_was_found_is_found_again_for_the_same_driver_only() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("tuning");
        let info = cpu::info();
        let mut record = Record::load(&folder, &info, Precision::F32).unwrap();
        assert!(record.choices.is_empty());
        record.choices.insert("node".into(), "kernel".into());
        let path = record.save(&folder).unwrap();
        assert_eq!(Record::load(&folder, &info, Precision::F32).unwrap(), record);
        let newer = DeviceInfo { driver: "another".into(), ..info.clone() };
        assert!(Record::load(&folder, &newer, Precision::F32).unwrap().choices.is_empty());
        let f16 = Record::load(&folder, &info, Precision::f16(1)).unwrap();
        assert!(f16.choices.is_empty() && f16.save(&folder).unwrap() != path);
        // Of another device whose name makes the same file's.
        std::fs::write(&path, serde_json::to_string(&Record { adapter: "another".into(), ..record }).unwrap()).unwrap();
        assert!(Record::load(&folder, &info, Precision::F32).unwrap().choices.is_empty());
        std::fs::write(&path, "{").unwrap();
        let error = Record::load(&folder, &info, Precision::F32).unwrap_err().to_string();
        assert!(error.contains(&*path.to_string_lossy()) && error.contains("convoy cache --clear"), "{error}");
    }
}
