//! The command line: parses, calls the library, and turns errors into one line and an exit code.

mod adapters;
mod bench;
mod bench_data;
mod cache;
mod compare;
mod console;
mod data;
mod eval;
mod exchange;
mod export;
mod not_yet;
mod options;
mod predict;
mod progress;
mod sample;
mod selftest;
mod stop;
mod summary;
mod train;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use console::Console;
use convoy::backend::DeviceOptions;
use convoy::backend::several::SeveralDevices;
use convoy::backend::{self, Device};
use convoy::cache::{pipelines, tuning};
use convoy::graph::Graph;
use convoy::graph::partition::Parallel;
use convoy::models::Model;
use convoy::train::config::ParallelKind;
use convoy::tune::{self, Gain, Tune};
use convoy::{Error, Result};

/// Trains convolutional image classifiers, AlexNet first, on any vendor's GPU, or on the CPU.
#[derive(Parser, Debug)]
#[command(name = "convoy", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print errors only
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Print more
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    verbose: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Train a classifier on the pictures in a folder
    Train(Box<train::Args>),
    /// Loss, top-1, top-5 and confusion matrix on labelled pictures
    Eval(eval::Args),
    /// Class and probability of each picture
    Predict(predict::Args),
    /// Write a trained network as a file for other programs: ONNX, or weights alone
    Export(export::Args),
    /// The devices this binary can use, and how to name each to --adapter
    Adapters(adapters::Args),
    /// Layers, shapes, parameters, FLOPs and memory of a model
    Summary(summary::Args),
    /// Speed of training and of inference on made-up pictures, as a whole and kernel by kernel
    Bench(bench::Args),
    /// What a folder of pictures holds, what the split will be, what cannot be read
    Data(data::Args),
    /// Draw a small labelled practice set, for trying things without data
    Sample(sample::Args),
    /// What is kept between runs: decoded pictures, the fastest kernels of each device, what its driver compiled
    Cache(cache::Args),
    /// Several runs' curves in one picture and a table
    Compare(compare::Args),
    /// Run the kernel cases on a device and report what it gets wrong
    Selftest(selftest::Args),
}

/// What `--help` says of a model.
fn model_help() -> String {
    format!("Model: a name of the zoo ({}) or a .toml file", Model::zoo().join(", "))
}

/// The choice of a device.
#[derive(clap::Args, Debug)]
struct DeviceArgs {
    /// Device: auto, an index or part of a name as `convoy adapters` prints them, vulkan, metal, dx12, gl, cuda or cpu; several, with
    /// commas between, work together
    #[arg(long, env = "CONVOY_ADAPTER", default_value = "auto", value_name = "DEVICE")]
    adapter: String,
    /// What several devices divide among them [default: model]
    #[arg(long)]
    parallel: Option<ParallelKind>,
}

impl DeviceArgs {
    /// Opens the device, with the kernels that were found to be the fastest on it.
    fn open(&self, console: &Console) -> Result<Box<dyn Device>> {
        let mut device = self.open_with(DeviceOptions::default(), console)?;
        let recalled = tuning().and_then(|folder| tune::recall(&mut *device, &folder));
        recalled.unwrap_or_else(|error| console.warn(error));
        Ok(device)
    }

    fn open_with(&self, options: DeviceOptions, console: &Console) -> Result<Box<dyn Device>> {
        open_device(&self.adapter, self.parallel, options, console).map(|(device, _)| device)
    }
}

/// Whether to search for the fastest kernels.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum TuneName {
    /// No, and use the default kernels
    Off,
    /// For what is not known of this device yet, two seconds at most; what NVIDIA's libraries compute is held against the own kernels in any case
    Quick,
    /// For all that the network needs, also what is known
    Full,
}

/// Finds the fastest kernels for `graph` and says what came of it; returns what was said.
fn tune_device(device: &mut dyn Device, graph: &Graph, how: TuneName, console: &Console) -> Result<Option<String>> {
    let how = match how {
        TuneName::Off => Tune::Off,
        TuneName::Quick => Tune::Quick,
        TuneName::Full => Tune::Full,
    };
    match tuning().and_then(|folder| tune::tune(device, graph, how, &folder)) {
        Ok(None) => Ok(None),
        Ok(Some(tuning)) => {
            tuning.faults.iter().for_each(|fault| console.warn(fault));
            for Gain { node, kernel, factor } in &tuning.gains {
                console.detail(format_args!("{node}: {kernel}, {factor:.2} times as fast as the default"))?;
            }
            let line = format!(
                "tuning: {} of {} kernels timed in {:.1} s, {} faster than the default",
                tuning.timed,
                tuning.wanted,
                tuning.seconds,
                tuning.gains.len()
            );
            console.say(&line)?;
            console.detail(format_args!("kept in {}", tuning.file.display()))?;
            Ok(Some(line))
        }
        Err(error) => {
            console.warn(format_args!("no tuning: {error}"));
            Ok(None)
        }
    }
}

/// Opens the device that `selector` names, or the devices, and says which it is and why: the first line, returned too, of every command
/// that uses one. Of several each runs the kernels that were found to be the fastest on it.
fn open_device(
    selector: &str,
    parallel: Option<ParallelKind>,
    options: DeviceOptions,
    console: &Console,
) -> Result<(Box<dyn Device>, String)> {
    let options = DeviceOptions { pipelines: pipelines().ok(), ..options };
    let mut opened = backend::select::open_all(selector, parallel.map(Parallel::from), options)?;
    let mut lines = Vec::new();
    for (device, reason) in &opened {
        let (info, number) = (device.info(), lines.len());
        let number = if opened.len() > 1 { format!(" {number}") } else { String::new() };
        lines.push(format!("device{number}: {} ({}): {reason}", info.name, info.backend));
        console.say(&lines[lines.len() - 1])?;
    }
    if opened.len() == 1 {
        return Ok((opened.remove(0).0, lines.concat()));
    }
    let mut devices = Vec::new();
    for (mut device, _) in opened {
        let recalled = tuning().and_then(|folder| tune::recall(&mut *device, &folder));
        recalled.unwrap_or_else(|error| console.warn(error));
        devices.push(device);
    }
    let together = SeveralDevices::new(devices, parallel.map_or(Parallel::default(), Parallel::from))?;
    Ok((Box::new(together), lines.join("; ")))
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    let command = command();
    let cli = match command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> ExitCode {
    console::error(error);
    ExitCode::from(error.exit_code())
}

/// The command line. `--top -1` is a bad number, not an unknown option; of an option given twice the last counts.
fn command() -> clap::Command {
    let numbers =
        |command: clap::Command| command.args_override_self(true).mut_args(|arg| arg.allow_negative_numbers(true));
    Cli::command().mut_subcommands(numbers).mut_subcommand("train", options::with_defaults)
}

fn run(cli: Cli) -> Result<()> {
    let console = Console::new(cli.quiet, cli.verbose);
    match cli.command {
        Command::Train(args) => train::run(*args, &console),
        Command::Eval(args) => eval::run(args, &console),
        Command::Predict(args) => predict::run(args, &console),
        Command::Export(args) => export::run(args, &console),
        Command::Adapters(args) => adapters::run(args),
        Command::Summary(args) => summary::run(args),
        Command::Bench(args) => bench::run(args, &console),
        Command::Data(args) => data::run(args, &console),
        Command::Sample(args) => sample::run(args, &console),
        Command::Cache(args) => cache::run(args, &console),
        Command::Compare(args) => compare::run(args, &console),
        Command::Selftest(args) => selftest::run(args, &console),
    }
}

/// Help and version as clap prints them; an error of usage as one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let printed = error.print().and_then(|()| io::stdout().flush());
        return match console::written(printed) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        };
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(2);
    }
    if let Some(wanted) = not_yet::wanted(error) {
        return failed(&Error::input(format!("{wanted} is not built yet; README.md says what is")));
    }
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let told: Vec<&str> = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    let message = told.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    failed(&Error::input(format!("{message} (--help tells more)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
