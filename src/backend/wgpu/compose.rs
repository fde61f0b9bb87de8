//! The text of a shader, put together from its files: run by build.rs, and by the tool that changes a file to see who notices.
//!
//! A line `//!include NAME` is replaced by the text of `shaders/NAME.wgsl`, the first time that it is asked for, and the
//! loops of register tiles by their unrolled text (see [`expand`]). A shader that includes `real` comes twice: also with 16-bit
//! floats, with `real_f16` in its place.

use std::path::{Path, PathBuf};

#[path = "expand.rs"]
mod expand;

/// What a file holds.
pub type Read<'a> = &'a dyn Fn(&Path) -> std::io::Result<String>;

/// A shader with its includes filled in, and where each line came from.
#[derive(Default)]
pub struct Source {
    /// WGSL.
    pub text: String,
    /// What it was put together from.
    pub files: Vec<PathBuf>,
    f16: bool,
    /// File and line (from 1) of each line of `text`.
    origins: Vec<(PathBuf, usize)>,
}

impl Source {
    /// Puts the shader at `path` together from what `read` gives for a path.
    ///
    /// # Errors
    /// `file:line: message`.
    pub fn compose(path: &Path, read: Read) -> Result<Source, String> {
        let mut source = Source::default();
        source.append(path, read)?;
        source.unrolled()
    }

    /// The same with 16-bit floats, where they make a difference.
    ///
    /// # Errors
    /// As [`Source::compose`].
    pub fn compose_f16(path: &Path, read: Read) -> Result<Option<Source>, String> {
        let mut source = Source { f16: true, ..Source::default() };
        source.append(path, read)?;
        let twin = source.files[1..].iter().any(|file| file.ends_with("real_f16.wgsl"));
        if twin { source.unrolled().map(Some) } else { Ok(None) }
    }

    /// The same text with the loops of `//#` lines written out.
    fn unrolled(self) -> Result<Source, String> {
        let lines =
            expand::expand(&self.text).map_err(|(line, message)| self.complaint(Some(line as u32), &message))?;
        let origins = lines.iter().map(|(line, _)| self.origins[line - 1].clone()).collect();
        Ok(Source { text: lines.into_iter().map(|(_, line)| line + "\n").collect(), origins, ..self })
    }

    fn append(&mut self, path: &Path, read: Read) -> Result<(), String> {
        if self.files.iter().any(|known| known == path) {
            return Ok(());
        }
        self.files.push(path.to_path_buf());
        let text = read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        for (index, line) in text.lines().enumerate() {
            match line.strip_prefix("//!include ") {
                Some(name) => {
                    let name = if self.f16 && name.trim() == "real" { "real_f16" } else { name.trim() };
                    self.append(&path.with_file_name(name).with_extension("wgsl"), read)?;
                }
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
