//! The text of a shader, put together from its files: run by build.rs, and by the tool that changes a file to see who notices.
//!
//! A line `//!include NAME` is replaced by the text of `shaders/NAME.wgsl`, the first time that it is asked for, and the
//! loops of register tiles by their unrolled text (see [`expand`]).

use std::path::{Path, PathBuf};

#[path = "expand.rs"]
mod expand;

/// A shader with its includes filled in, and where each line came from.
#[derive(Default)]
pub struct Source {
    /// WGSL.
    pub text: String,
    /// What it was put together from.
    pub files: Vec<PathBuf>,
    /// File and line (from 1) of each line of `text`.
    origins: Vec<(PathBuf, usize)>,
}

impl Source {
    /// Puts the shader at `path` together from what `read` gives for a path.
    ///
    /// # Errors
    /// `file:line: message`.
    pub fn compose(path: &Path, read: &dyn Fn(&Path) -> std::io::Result<String>) -> Result<Source, String> {
        let mut source = Source::default();
        source.append(path, read)?;
        source.unrolled()
    }

    /// The same text with the loops of `//#` lines written out.
    fn unrolled(self) -> Result<Source, String> {
        let lines =
            expand::expand(&self.text).map_err(|(line, message)| self.complaint(Some(line as u32), &message))?;
        let origins = lines.iter().map(|(line, _)| self.origins[line - 1].clone()).collect();
        Ok(Source { files: self.files, text: lines.into_iter().map(|(_, line)| line + "\n").collect(), origins })
    }

    fn append(&mut self, path: &Path, read: &dyn Fn(&Path) -> std::io::Result<String>) -> Result<(), String> {
        if self.files.iter().any(|known| known == path) {
            return Ok(());
        }
        self.files.push(path.to_path_buf());
        let text = read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        for (index, line) in text.lines().enumerate() {
            match line.strip_prefix("//!include ") {
                Some(name) => self.append(&path.with_file_name(name.trim()).with_extension("wgsl"), read)?,
                None => {
                    self.text += line;
                    self.text.push('\n');
                    self.origins.push((path.to_path_buf(), index + 1));
                }
            }
        }
        Ok(())
    }

    /// `file:line: message`, for a line of the text with the includes in.
    pub fn complaint(&self, line: Option<u32>, message: &str) -> String {
        let origin = line.and_then(|line| self.origins.get(line as usize - 1)).or(self.origins.first());
        let (path, line) = origin.map_or((Path::new("shaders"), 0), |(path, line)| (path, *line));
        format!("{}:{line}: {}", path.display(), message.replace('\n', " "))
    }
}
