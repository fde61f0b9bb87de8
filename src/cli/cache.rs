//! `convoy cache`: what is kept between runs.

use std::path::PathBuf;

use super::console::{self, Console, bytes};
use convoy::Result;
use convoy::cache::{Entry, PIPELINES, clear, entries, folder};

/// Options of `convoy cache`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Delete it all: decoded pictures, the fastest kernels of each device, what its driver compiled
    #[arg(long)]
    clear: bool,
    /// The folder that was given to `convoy train --cache` [default: the user's folder of caches]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

/// Lists, or deletes.
///
/// # Errors
/// When the folder cannot be read or deleted.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let folder = args.cache.map_or_else(folder, Ok)?;
    let entries = entries(&folder)?;
    let total: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let files = if entries.len() == 1 { "file" } else { "files" };
    let summary = format!("{} {files}, {} in {}", entries.len(), bytes(total), folder.display());
    if args.clear {
        clear(&folder)?;
        return console.say(format_args!("deleted {summary}"));
    }
    // There is a file for each kernel on some devices.
    let (compiled, others): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|entry| entry.kind == PIPELINES);
    for entry in others {
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
        let of = entry.of.as_ref().map_or(String::new(), |folder| format!(", of {}", folder.display()));
        console::print(format_args!("{}: {name}, {}{of}", entry.kind, bytes(entry.bytes)))?;
    }
    if !compiled.is_empty() {
        let size = bytes(compiled.iter().map(|entry| entry.bytes).sum());
        console::print(format_args!("{PIPELINES}: {size} in {} files", compiled.len()))?;
    }
    console::print(summary)
}
