//! The folder of a run. Files are written beside their place, synced and renamed, so that a crash or a full disk leaves the last
//! good one; only `log.txt` grows in place, line by line, for it must tell what happened before a crash.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::metrics::Means;
use crate::error::{Error, Result, escaped, one_line};
use crate::formats::{atomic, csv};

/// A line of `metrics.csv`.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsRow {
    /// From 1.
    pub epoch: usize,
    /// Global step, from 1.
    pub step: u64,
    /// `train` (mean over the epoch's steps so far, with augmentation and dropout) or `val`.
    pub split: &'static str,
    /// The means.
    pub means: Means,
    /// Learning rate of the step.
    pub lr: f64,
    /// Speed of this part.
    pub images_per_second: f64,
    /// Time since the run's start, pauses before a resume left out.
    pub seconds: f64,
}

const METRICS_HEADER: &str = "epoch,step,split,loss,top1,top5,lr,images_per_second,seconds";

impl MetricsRow {
    fn line(&self) -> String {
        let MetricsRow { epoch, step, split, means: Means { loss, top1, top5 }, lr, images_per_second, seconds } = self;
        format!("{epoch},{step},{split},{loss},{top1},{top5},{lr},{images_per_second:.2},{seconds:.2}")
    }
}

/// The copy of a model that is not of the zoo: `config.toml` names it, so that it repeats the run after the file was edited.
pub const MODEL: &str = "model.toml";

const LOCK: &str = ".lock";

/// The right to write a run's folder, for one process at a time. It ends with the process, however that ends: the system keeps it,
/// and the file that stays means nothing.
pub struct Lock {
    folder: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the right to write the folder `path`, which must be there.
    ///
    /// # Errors
    /// [`Error::Input`] when another process has it; [`Error::Io`] when the folder cannot be written.
    pub fn take(path: &Path) -> Result<Lock> {
        let lock = path.join(LOCK);
        let file = File::options().create(true).append(true).open(&lock);
        let file = file.map_err(Error::io("cannot write into the run's folder", &lock))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::input(format!(
                "{}: another process trains in this folder; wait until it has ended, or stop it",
                path.display()
            ))),
            // Some network file systems know no locks: better a run without than none.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Lock { folder: path.into(), _file: file }),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// A run's folder.
pub struct RunFolder {
    lock: Lock,
    log: File,
    /// Lines of `metrics.csv` without the header.
    metrics: Vec<String>,
    /// Reasons by path.
    skipped: BTreeMap<String, String>,
}

impl RunFolder {
    /// Makes `out/name`, or `out/name-2` and so on where that is taken: no run overwrites another.
    ///
    /// # Errors
    /// When the folder cannot be made, or `name` is not a plain file name.
    pub fn create(out: &Path, name: &str) -> Result<RunFolder> {
        let plain = Path::new(name).file_name().is_some_and(|file| file == name);
        if !plain || name.contains(['/', '\\']) {
            return Err(Error::input(format!("--name {name:?}: expected a folder's name, without separators")));
        }
        fs::create_dir_all(out).map_err(Error::io("cannot make the output folder", out))?;
        let numbered = |n: usize| out.join(if n == 1 { name.into() } else { format!("{name}-{n}") });
        for path in (1..).map(numbered) {
            match fs::create_dir(&path) {
                Ok(()) => {
                    let made = Lock::take(&path).and_then(|lock| Self::with_log(lock, Vec::new(), BTreeMap::new()));
                    return made.inspect_err(|_| discard(&path));
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("cannot make the run's folder", &path)(e)),
            }
        }
        unreachable!("the numbers do not end")
    }

    /// Opens the folder of a run, whose lock was taken before its checkpoint was read, to go on from `step`; metrics of later steps,
    /// which the crash of a run may leave, are dropped.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub fn open(lock: Lock, step: u64) -> Result<RunFolder> {
        let path = lock.folder();
        let read = |name: &str| -> Result<String> {
            let file = path.join(name);
            match fs::read_to_string(&file) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
                other => other.map_err(Error::io("cannot read the run's file", &file)),
            }
        };
        atomic::remove_leftovers(path);
        let step_of = |line: &str| line.split(',').nth(1).and_then(|s| s.parse::<u64>().ok());
        let metrics = read("metrics.csv")?;
        let metrics =
            metrics.lines().filter(|line| step_of(line).is_some_and(|s| s <= step)).map(String::from).collect();
        let skipped = read("skipped.csv")?;
        let skipped = skipped.lines().skip(1).filter_map(|line| <[String; 2]>::try_from(csv::fields(line)).ok());
        let skipped = skipped.map(|[path, reason]| (path, reason)).collect();
        Self::with_log(lock, metrics, skipped)
    }

    fn with_log(lock: Lock, metrics: Vec<String>, skipped: BTreeMap<String, String>) -> Result<RunFolder> {
        let log = lock.folder().join("log.txt");
        let log =
            File::options().create(true).append(true).open(&log).map_err(Error::io("cannot write the log", &log))?;
        Ok(RunFolder { lock, log, metrics, skipped })
    }

    /// Removes the folder of a new run that trained nothing.
    pub fn discard(self) {
        let path = self.path().to_path_buf();
        drop(self); // some systems do not remove an open file
        discard(&path);
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.lock.folder()
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Seconds that the run had taken at its last metrics.
    pub fn seconds(&self) -> f64 {
        self.metrics.last().and_then(|line| line.rsplit(',').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// Writes a text file.
    pub fn write_text(&self, name: &str, text: &str) -> Result<()> {
        atomic::write(&self.file(name), |writer| writer.write_all(text.as_bytes()))
    }

    /// Adds rows to `metrics.csv`. The file is small (two rows an epoch), so it is written whole.
    pub fn add_metrics(&mut self, rows: &[MetricsRow]) -> Result<()> {
        self.metrics.extend(rows.iter().map(MetricsRow::line));
        self.write_text("metrics.csv", &format!("{METRICS_HEADER}\n{}\n", self.metrics.join("\n")))
    }

    /// Adds pictures that could not be read, with the reasons, to `skipped.csv`.
    pub fn add_skipped(&mut self, pictures: impl IntoIterator<Item = (String, String)>) -> Result<()> {
        let before = self.skipped.len();
        self.skipped.extend(pictures.into_iter().map(|(path, reason)| (escaped(&path), one_line(&reason))));
        if self.skipped.len() == before && self.file("skipped.csv").exists() {
            return Ok(());
        }
        let lines: String = self
            .skipped
            .iter()
            .map(|(path, reason)| format!("{},{}\n", csv::field(path), csv::field(reason)))
            .collect();
        self.write_text("skipped.csv", &format!("path,reason\n{lines}"))
    }

    /// Whether the picture of this path was left out so far.
    pub fn has_skipped(&self, path: &str) -> bool {
        self.skipped.contains_key(&escaped(path))
    }

    /// Adds a line, with the local time, to `log.txt`.
    pub fn log(&mut self, line: &str) -> Result<()> {
        let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
        // One write for a line: lines of a crashed run are whole.
        let written = self.log.write_all(format!("{now} {}\n", one_line(&line)).as_bytes());
        written.map_err(Error::io("cannot write the log", &self.file("log.txt")))
    }
}

/// Removes what a run has written before its first step. Best effort: what led here is the error to tell. A folder with more in it stays.
fn discard(path: &Path) {
    for name in ["config.toml", MODEL, "log.txt", "skipped.csv", "samples.png", LOCK] {
        let _ = fs::remove_file(path.join(name));
    }
    let _ = fs::remove_dir(path);
}

/// Name for a run that was given none: model and local time.
pub fn default_name(model: &str) -> String {
    let model: String = model.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    format!("{model}-{}", jiff::Zoned::now().strftime("%Y-%m-%d-%H%M%S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64) -> MetricsRow {
        let means = Means { loss: 0.5, top1: 0.75, top5: 1.0 };
        MetricsRow { epoch: 1, step, split: "val", means, lr: 0.01, images_per_second: 20.0, seconds: step as f64 }
    }

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let out = tempfile::tempdir().unwrap();
        let first = RunFolder::create(out.path(), "run").unwrap();
        let second = RunFolder::create(out.path(), "run").unwrap();
        assert_eq!(first.path(), out.path().join("run"));
        assert_eq!(second.path(), out.path().join("run-2"));
        for bad in ["a/b", "..", "", "/x"] {
            assert!(RunFolder::create(out.path(), bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn metrics_after_the_checkpoint_are_dropped_on_resume() {
        let out = tempfile::tempdir().unwrap();
        let mut folder = RunFolder::create(out.path(), "run").unwrap();
        folder.add_metrics(&[row(10), row(20)]).unwrap();
        let mut folder = reopened(folder, 10);
        assert_eq!(folder.seconds(), 10.0);
        folder.add_metrics(&[row(15)]).unwrap();
        let text = fs::read_to_string(folder.file("metrics.csv")).unwrap();
        assert_eq!(text.lines().nth(1).unwrap(), "1,10,val,0.5,0.75,1,0.01,20.00,10.00");
        assert_eq!(text.lines().count(), 3);
    }

    /// As another process would open it.
    fn reopened(folder: RunFolder, step: u64) -> RunFolder {
        let path = folder.path().to_path_buf();
        drop(folder);
        RunFolder::open(Lock::take(&path).unwrap(), step).unwrap()
    }

    #[test]
    fn one_process_at_a_time() {
        let out = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(out.path(), "run").unwrap();
        let refused = Lock::take(folder.path()).map(|_| ()).unwrap_err();
        assert!(refused.exit_code() == 2 && refused.to_string().contains("another process"), "{refused}");
        reopened(folder, 0);
    }

    #[test]
    fn a_discarded_folder_is_gone_but_not_with_more_in_it() {
        let out = tempfile::tempdir().unwrap();
        let made = |files: &[&str]| {
            let folder = RunFolder::create(out.path(), "run").unwrap();
            files.iter().for_each(|file| folder.write_text(file, "").unwrap());
            let path = folder.path().to_path_buf();
            folder.discard();
            path.exists()
        };
        assert!(!made(&["config.toml", MODEL]));
        assert!(made(&["config.toml", "notes.txt"]));
    }

    #[test]
    fn skipped_pictures_survive_a_resume() {
        let out = tempfile::tempdir().unwrap();
        let mut folder = RunFolder::create(out.path(), "run").unwrap();
        let odd = ("a \"b\", c.jpg".to_string(), "bad, \"very\"\nbad".to_string());
        let names = [" blank/1.jpg", "|bar/1.jpg", "tab\t/1.jpg", "line\nbreak.jpg", "plain.jpg"];
        let mut skipped: Vec<_> = names.map(|name| (name.to_string(), "reason".to_string())).into();
        skipped.push(odd);
        folder.add_skipped(skipped).unwrap();
        let folder = reopened(folder, 0);
        assert!(
            folder.skipped.len() == 6 && folder.has_skipped("a \"b\", c.jpg") && !folder.has_skipped("blank/1.jpg")
        );
        names.iter().for_each(|name| assert!(folder.has_skipped(name), "{name}"));
        assert_eq!(folder.skipped["a \"b\", c.jpg"], "bad, \"very\" bad");
    }
}
