//! What is to come, told as such and not as a slip of the pen. Whatever gets built leaves these lists.

use clap::error::{ContextKind, ContextValue};

const COMMANDS: [&str; 2] = ["explain", "lr-find"];
const OPTIONS: [&str; 1] = ["--accumulate"];
const VALUES: [(&str, &str); 1] = [("--batch-size", "auto")];

/// What a command line asks for that is not built yet, if that is why it was refused.
pub fn wanted(error: &clap::Error) -> Option<String> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if let Some(command) = context(ContextKind::InvalidSubcommand) {
        return COMMANDS.contains(&command).then(|| format!("convoy {command}"));
    }
    let option = context(ContextKind::InvalidArg)?.split([' ', '=']).next()?; // of `--batch-size <N>`
    match context(ContextKind::InvalidValue) {
        Some(value) => VALUES.contains(&(option, value)).then(|| format!("{option} {value}")),
        None => OPTIONS.contains(&option).then(|| option.into()),
    }
}
