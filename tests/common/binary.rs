//! The `convoy` binary, run on pictures that the tests draw.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use convoy::rng::{Philox, stream};
use image::{Rgb, RgbImage};

/// A folder that lives as long as the test, with the pictures and runs of one test in it.
pub struct Place {
    folder: tempfile::TempDir,
}

/// What a command did.
pub struct Ran {
    /// Its exit code; None when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Ran {
    /// # Panics
    /// Unless the exit code is 0.
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as one JSON document.
    pub fn json(self) -> serde_json::Value {
        let ran = self.ok();
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("not one JSON document ({e}):\n{}", ran.stdout))
    }

    /// # Panics
    /// Unless it refused with `code` and one error on stderr, the last line, that holds every one of `words`; warnings, of
    /// pictures that were skipped, may come before it.
    pub fn refused(self, code: i32, words: &[&str]) {
        let all = format!("code {:?}, stdout:\n{}\nstderr:\n{}", self.code, self.stdout, self.stderr);
        assert_eq!(self.code, Some(code), "{all}");
        assert!(!self.stderr.contains("panicked"), "{all}");
        let (warnings, errors): (Vec<&str>, Vec<&str>) =
            self.stderr.lines().partition(|line| line.starts_with("warning: "));
        let [error] = errors[..] else { panic!("one cause, one line: {all}") };
        assert!(error.starts_with("error: ") && self.stderr.trim_end().ends_with(error), "{warnings:?} {all}");
        words.iter().for_each(|word| assert!(error.contains(word), "the error should say {word:?}: {all}"));
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("convoy prints UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("convoy prints UTF-8"),
        }
    }
}

impl Place {
    /// An empty folder.
    pub fn new() -> Place {
        Place { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// A path in it.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// Runs `convoy ARGUMENTS` (split at blanks) in the folder, on the CPU backend unless the arguments name another.
    pub fn convoy(&self, arguments: &str) -> Ran {
        self.command(arguments).output().expect("the binary starts").into()
    }

    /// The command of [`Place::convoy`], not started.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_convoy"));
        command.args(arguments.split_whitespace()).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("CONVOY_ADAPTER", "cpu").env_remove("RUST_BACKTRACE");
        // No test finds what another left, or the user's own; but Mesa may keep what it compiled.
        command.env("XDG_CACHE_HOME", self.path(".caches")).env("HOME", self.path(".home"));
        command.env("MESA_SHADER_CACHE_DIR", env!("CARGO_TARGET_TMPDIR"));
        command
    }

    /// Draws `each` pictures of cats (warm, striped) and dogs (cold, plain) as `FOLDER/cat.0.png`...
    pub fn pictures(&self, folder: &str, each: usize) {
        std::fs::create_dir_all(self.path(folder)).expect("a new folder");
        for i in 0..each {
            picture(2 * i as u32, true).save(self.path(&format!("{folder}/cat.{i}.png"))).expect("written");
            picture(2 * i as u32 + 1, false).save(self.path(&format!("{folder}/dog.{i}.png"))).expect("written");
        }
    }

    /// Writes a file.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(relative), content).expect("written");
    }

    /// Reads a file.
    pub fn read(&self, relative: &str) -> Vec<u8> {
        read(&self.path(relative))
    }

    /// Reads a text file.
    pub fn text(&self, relative: &str) -> String {
        String::from_utf8(self.read(relative)).expect("UTF-8")
    }
}

/// Reads a file, and says which when it cannot.
pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A noisy picture of 40 x 36 pixels; the class shows in colour and stripes.
pub fn picture(number: u32, cat: bool) -> RgbImage {
    let random = Philox { seed: 5, stream: stream::TEST, step: number };
    RgbImage::from_fn(40, 36, |x, y| {
        let [noise, ..] = random.block(y * 40 + x);
        let noise = noise as u8 / 4;
        let stripe = if ((x + y + number) / 4).is_multiple_of(2) { 120 } else { 30 };
        match cat {
            true => Rgb([150 + noise, stripe, 20 + noise]),
            false => Rgb([20 + noise, 70, 130 + noise]),
        }
    })
}
