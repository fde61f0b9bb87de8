//! Text files that people write.

use std::path::Path;

use crate::error::{Error, Result};

/// The text of a file, without the byte-order mark that some editors put in front.
///
/// # Errors
/// When it cannot be read (`action` says what for), or is not UTF-8.
pub fn read(path: &Path, action: &'static str) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(action, path))?;
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| Error::input(format!("{}: not UTF-8; save it as UTF-8", path.display())))?;
    Ok(text.strip_prefix('\u{feff}').map(String::from).unwrap_or(text))
}
