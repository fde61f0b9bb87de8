//! What goes to the terminal. A closed pipe (`convoy predict .. | head`) is never an error, and never a panic as with `println!`.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use convoy::error::one_line;
use convoy::{Error, Result};

/// How much a command prints.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    quiet: bool,
    verbose: bool,
}

impl Console {
    pub fn new(quiet: bool, verbose: bool) -> Console {
        Console { quiet, verbose }
    }

    /// For `--json`: nothing but the document goes to stdout.
    pub fn without_output(self, json: bool) -> Console {
        Console { quiet: self.quiet || json, ..self }
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// A line on stdout, unless quiet.
    pub fn say(&self, line: impl Display) -> Result<()> {
        if self.quiet { Ok(()) } else { print(line) }
    }

    /// A line on stdout with `-v`.
    pub fn detail(&self, line: impl Display) -> Result<()> {
        if self.verbose { print(line) } else { Ok(()) }
    }

    /// A warning on stderr, unless quiet.
    pub fn warn(&self, line: impl Display) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "warning: {}", one_line(&line));
        }
    }
}

/// A line on stdout: what the command was asked for.
///
/// # Errors
/// When stdout cannot be written for another reason than that nobody reads it (a full disk).
pub fn print(line: impl Display) -> Result<()> {
    written(writeln!(io::stdout().lock(), "{line}"))
}

/// What became of writing to stdout: that nobody reads it is no error.
pub fn written(result: io::Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("cannot write", Path::new("stdout"))(e)),
        _ => Ok(()),
    }
}

/// Bytes in binary units: `222.4 MiB`.
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// One JSON document on stdout.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(serde_json::to_string_pretty(value).map_err(|e| Error::input(format!("cannot print as JSON: {e}")))?)
}

/// An error on stderr, as one line.
pub fn error(error: &Error) {
    let _ = writeln!(io::stderr(), "error: {}", one_line(error));
}

/// A path as one would type it into a shell.
pub fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/\\:._-+=@%,".contains(c);
    match path.chars().all(plain) && (cfg!(windows) || !path.contains('\\')) {
        true => path,
        false if cfg!(windows) => format!("\"{path}\""),
        false => format!("'{}'", path.replace('\'', "'\\''")),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn paths_can_be_typed() {
        for (path, typed) in [
            ("runs/a-1/best.safetensors", "runs/a-1/best.safetensors"),
            ("my cats/1.jpg", "'my cats/1.jpg'"),
            ("it's $5", "'it'\\''s $5'"),
            ("", ""),
        ] {
            assert_eq!(quoted(Path::new(path)), typed);
        }
    }
}
