//! The one error type of the crate. Every message says what was expected, what came, and what to do.

use std::path::{Path, PathBuf};

/// What can go wrong, in the groups a caller acts upon. [`Error::exit_code`] maps a group to the process's exit code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A layer or op was given shapes or options it cannot work with.
    #[error("{layer}: {message}")]
    Shape {
        /// The layer (`conv1`) or node the error is about.
        layer: String,
        /// What was expected and what came.
        message: String,
    },
    /// Wrong usage or input: a folder, file, option or checkpoint.
    #[error("{0}")]
    Input(String),
    /// A file could not be read or written.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// What was being done, e.g. `cannot write the checkpoint`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is no usable device, or the device failed.
    #[error("{0}")]
    Device(String),
    /// An op is not implemented by a backend, or a graph cannot be differentiated.
    #[error("{op} is not supported by {by}: {hint}")]
    Unsupported {
        /// The op's name.
        op: String,
        /// The backend, or `autodiff`.
        by: String,
        /// What to do instead.
        hint: String,
    },
    /// The loss was not a finite number.
    #[error("the loss became {loss} at step {step}; lower --lr, or look for broken labels")]
    NotFinite {
        /// The loss as read back.
        loss: f32,
        /// Global step, from 1.
        step: u64,
    },
    /// The user interrupted the run.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Wrong usage or input (exit code 2).
    pub fn input(message: impl Into<String>) -> Self {
        Error::Input(message.into())
    }

    /// A device problem (exit code 3).
    pub fn device(message: impl Into<String>) -> Self {
        Error::Device(message.into())
    }

    /// A shape problem in `layer` (exit code 2).
    pub fn shape(layer: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Shape { layer: layer.into(), message: message.into() }
    }

    /// For `map_err`: a file system error at `path` while doing `action`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// The process's exit code: 2 wrong usage or input, 3 device, 4 loss not finite, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Shape { .. } | Error::Input(_) | Error::Io { .. } => 2,
            Error::Device(_) | Error::Unsupported { .. } => 3,
            Error::NotFinite { .. } => 4,
            Error::Interrupted => 130,
        }
    }
}

/// A text on one line that a terminal shows as it is: line breaks become spaces, the marker lines of TOML's messages go, and
/// control characters (a file may be called anything) are escaped.
pub fn one_line(text: &impl std::fmt::Display) -> String {
    let text = text.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('|'));
    escaped(&lines.collect::<Vec<_>>().join(" "))
}

/// A file's name or path with its control characters, line breaks among them, escaped; nothing else is changed.
pub fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        match c.is_control() {
            true => text.extend(c.escape_debug()),
            false => text.push(c),
        }
    }
    text
}

/// `Result` with convoy's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The number of the line that holds a byte of a text, from 1.
pub(crate) fn line_of(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|&b| b == b'\n').count() + 1
}

/// What is wrong with a TOML text, on one line, with the number of the line where it is known.
pub(crate) fn toml_message(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| line_of(text, span.start));
    let place = line.map_or(String::new(), |line| format!("line {line}: "));
    // The parser's message has no name: the key is what the place covers.
    let key = error.span().and_then(|span| text.get(span)).filter(|_| error.message() == "duplicate key");
    let key = key.map_or(String::new(), |key| format!(" {}", one_line(&key.trim())));
    format!("{place}{}{key}", serde_message(&error.message()))
}

/// What serde says of a value, on one line, in words for people who do not know Rust's types.
pub(crate) fn serde_message(message: &impl std::fmt::Display) -> String {
    let message = one_line(message);
    let plain = |ty: &str| match ty {
        "u16" => Some("a whole number up to 65535"),
        "u32" => Some("a whole number up to 4294967295"),
        "u64" | "usize" => Some("a whole number of 0 or more"),
        "f32" | "f64" => Some("a number"),
        _ => None,
    };
    match message.rsplit_once("expected ").and_then(|(before, ty)| Some((before, plain(ty)?))) {
        Some((before, plain)) => format!("{before}expected {plain}"),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_no_control_characters() {
        assert_eq!(one_line(&"a\n  b\r\n | ^^^\nc\x1b[31m\td"), "a b c\\u{1b}[31m\\td");
        assert_eq!(one_line(&"Чихуахуа 犬"), "Чихуахуа 犬");
        let told = serde_message(&"invalid value: integer `-2`, expected u32");
        assert_eq!(told, "invalid value: integer `-2`, expected a whole number up to 4294967295");
    }
}
