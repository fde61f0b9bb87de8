//! `convoy sample`: a practice set, for trying things without data.

use std::path::PathBuf;

use super::console::{Console, quoted};
use convoy::data::sample::{self, SampleOptions};
use convoy::error::Result;

/// Draw a small labelled practice set of simple shapes: the same pictures on every machine
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder for the pictures; made if it is not there
    dir: PathBuf,
    /// Pictures of each class
    #[arg(long, default_value_t = 64)]
    count: usize,
    /// Classes, 2 to 6: circle, square, triangle, cross, ring, star
    #[arg(long, default_value_t = 3)]
    classes: usize,
    /// Width and height in pixels
    #[arg(long, default_value_t = 160)]
    size: usize,
    /// Which set
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Draws the set and says what to do with it.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let Args { dir, count, classes, size, seed } = args;
    let drawn = sample::write(&dir, &SampleOptions { count, classes, size, seed })?;
    let (folder, typed) = (dir.display(), quoted(&dir));
    console.say(format_args!("{drawn} pictures of {classes} classes in {folder}; train on them: convoy train {typed}"))
}
