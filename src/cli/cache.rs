//! `convoy cache`: what is kept between runs.

use super::console::{self, Console, bytes};
use convoy::Result;
use convoy::cache::{clear, entries, folder};

/// Options of `convoy cache`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Delete it all
    #[arg(long)]
    clear: bool,
}

/// Lists, or deletes.
///
/// # Errors
/// When the folder cannot be read or deleted.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let folder = folder()?;
    let entries = entries(&folder)?;
    let total: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let files = if entries.len() == 1 { "file" } else { "files" };
    let summary = format!("{} {files}, {} in {}", entries.len(), bytes(total), folder.display());
    if args.clear {
        clear(&folder)?;
        return console.say(format_args!("deleted {summary}"));
    }
    for entry in &entries {
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
        console::print(format_args!("{}: {name}, {}", entry.kind, bytes(entry.bytes)))?;
    }
    console::print(summary)
}
