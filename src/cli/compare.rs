//! `convoy compare`: several runs' curves in one picture and a table.

use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::console::{self, Console};
use convoy::error::{Error, Result};
use convoy::formats::atomic;
use convoy::report::Curves;

/// Options of `convoy compare`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folders of runs, such as runs/NAME
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Training error in percent whose first epoch is told (the 2012 paper's Figure 1: 25)
    #[arg(long, value_name = "PERCENT", default_value_t = 25.0, value_parser = percent)]
    training_error: f64,
    /// The picture, SVG
    #[arg(long, value_name = "FILE", default_value = "compare.svg")]
    out: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| (0.0..=100.0).contains(value));
    value.ok_or_else(|| "expected a number from 0 to 100".into())
}

/// A run's row, and what `--json` prints of it. Errors are shares.
#[derive(Serialize)]
struct Row<'a> {
    run: &'a str,
    epochs: usize,
    training_error: f64,
    best_validation_error: f64,
    epochs_to_training_error: Option<usize>,
    seconds_to_training_error: Option<f64>,
}

/// Draws the picture and prints the table.
///
/// # Errors
/// When a folder is no run, none has a whole epoch, or the picture cannot be written.
pub fn run(args: Args, console: &Console) -> Result<()> {
    if args.out.extension().is_some_and(|extension| !extension.eq_ignore_ascii_case("svg")) {
        let out = args.out.display();
        return Err(Error::input(format!("--out {out}: the picture is SVG; give a name that ends in .svg")));
    }
    let (mut runs, mut paths) = (Vec::new(), Vec::new());
    for path in args.runs {
        match Curves::read(&path)? {
            Some(run) => {
                runs.push(run);
                paths.push(path);
            }
            None => console.warn(format_args!("{}: left out: the run has no whole epoch", path.display())),
        }
    }
    if runs.is_empty() {
        return Err(Error::input("none of the runs has a whole epoch"));
    }
    tell_apart(&mut runs, &paths);
    atomic::write(&args.out, |file| std::io::Write::write_all(file, Curves::picture(&runs).as_bytes()))?;
    let rows: Vec<Row> = runs.iter().map(|run| row(run, args.training_error / 100.0)).collect();
    if args.json {
        return console::print_json(&rows);
    }
    console::print(table(&rows, args.training_error).trim_end())?;
    console.say(format_args!("curves: {}", args.out.display()))
}

/// Runs whose folders have the same name are called by the paths as they were given.
fn tell_apart(runs: &mut [Curves], paths: &[PathBuf]) {
    let names: Vec<String> = runs.iter().map(|run| run.run.clone()).collect();
    for (run, path) in runs.iter_mut().zip(paths) {
        if names.iter().filter(|name| **name == run.run).count() > 1 {
            run.run = path.display().to_string();
        }
    }
}

fn row(run: &Curves, error: f64) -> Row<'_> {
    let reached = run.reaches(error);
    Row {
        run: &run.run,
        epochs: run.points.last().map_or(0, |point| point.epoch),
        training_error: run.points.last().map_or(1.0, |point| point.training_error),
        best_validation_error: run.best(),
        epochs_to_training_error: reached.map(|point| point.epoch),
        seconds_to_training_error: reached.map(|point| point.seconds),
    }
}

fn table(rows: &[Row], error: f64) -> String {
    let width = rows.iter().map(|row| row.run.len()).max().unwrap_or(0).max(3);
    let to = format!("to {error} % training error");
    let mut text = String::new();
    let _ = writeln!(text, "{:width$}  epochs  training error  best validation error  epochs {to}  time {to}", "run");
    for row in rows {
        let epochs = row.epochs_to_training_error.map_or("never".into(), |epochs| epochs.to_string());
        let time = row.seconds_to_training_error.map_or("never".into(), |seconds| format!("{seconds:.0} s"));
        let (training, validation) = (100.0 * row.training_error, 100.0 * row.best_validation_error);
        let (run, wide) = (row.run, 7 + to.len());
        let _ = writeln!(
            text,
            "{run:width$}  {:>6}  {training:>12.2} %  {validation:>19.2} %  {epochs:>wide$}  {time:>time_wide$}",
            row.epochs,
            time_wide = wide - 2
        );
    }
    text
}
