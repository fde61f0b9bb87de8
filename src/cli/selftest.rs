//! `convoy selftest`: runs the kernel cases on a device and reports what it gets wrong.

use indicatif::{ProgressBar, ProgressStyle};

use super::DeviceArgs;
use super::console::{self, Console};
use convoy::ops::Op;
use convoy::selftest::{Coverage, Kind, Report, Selection, Suite, coverage};
use convoy::{Error, Result};

/// Options of `convoy selftest`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only this op's cases, by its name in --list; may be given several times
    #[arg(long = "op", value_name = "OP")]
    ops: Vec<String>,
    /// Random cases of each op, beside the fixed ones
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    random: u32,
    /// Seed of the random cases and of all values
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Also with run-time checks, with small windows of memory, on a software device with the kernels for GPUs, and on a cuda
    /// device in TF32 and bfloat16
    #[arg(long)]
    full: bool,
    /// List the ops and how many cases of what each has, and run nothing
    #[arg(long)]
    list: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the cases and prints what came out.
///
/// # Errors
/// [`Error::Device`] when the device computes something wrong.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let selection = Selection { seed: args.seed, random: args.random, ops: args.ops };
    if let Some(unknown) = selection.ops.iter().find(|op| !known().contains(&op.as_str())) {
        return Err(Error::input(format!("there is no op {unknown:?}; ops are {}", known().join(", "))));
    }
    if args.list {
        let rows: Vec<Coverage> = coverage(&selection);
        return if args.json { console::print_json(&rows) } else { console::print(list(&rows)) };
    }
    let mut device = args.device.open_with(Kind::plain().options, &console.without_output(args.json))?;
    let suite = Suite::new(&selection);
    let quiet = console.is_quiet() || args.json;
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(suite.cases().len() as u64) };
    bar.set_style(
        ProgressStyle::with_template("{pos}/{len} cases {wide_bar} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let progress = |done| bar.set_position(done as u64);
    let mut report = suite.run(&mut *device, progress);
    let kinds = if args.full { Kind::others(device.info()) } else { Vec::new() };
    drop(device);
    for kind in kinds {
        let mut device = match args.device.open_with(kind.options.clone(), &console.without_output(true)) {
            Err(_) if kind.is_of_libraries() => continue,
            opened => opened?,
        };
        suite.add(&mut report, &mut *device, &kind, progress);
    }
    bar.finish_and_clear();
    match args.json {
        true => console::print_json(&report)?,
        false => console::print(table(&report))?,
    }
    // Kernels keep out of the way of loops that end too early; nothing else may be wrong with a device.
    if let Some(fault) = report.findings.iter().find(|finding| !finding.right && !finding.avoided) {
        return Err(Error::device(format!(
            "{} fails a check of the device itself: {}",
            report.device.name, fault.found
        )));
    }
    match report.failed {
        0 => Ok(()),
        failed => Err(Error::device(format!(
            "{} computes {failed} of {} cases wrong; please report it with the output of `convoy selftest --json`",
            report.device.name, report.cases
        ))),
    }
}

fn known() -> Vec<&'static str> {
    let mut names = Op::NAMES.to_vec();
    names.sort_unstable();
    names
}

fn table(report: &Report) -> String {
    let mut lines = format!("driver: {}", report.device.driver);
    for finding in &report.findings {
        lines += &format!("\n{}: {}", if finding.right { "ok" } else { "WRONG" }, finding.found);
    }
    let heads = ["cases", "failed", "worst error", "ms"];
    lines += &format!(
        "\n{:24} {:>6} {:>7} {:>12} {:>9}  case of the worst error",
        "op", heads[0], heads[1], heads[2], heads[3]
    );
    for op in &report.ops {
        lines += &format!(
            "\n{:24} {:>6} {:>7} {:>11.1}% {:>9.0}  {}",
            op.op,
            op.cases,
            op.failed,
            op.worst_error * 100.0,
            op.ms,
            op.worst_case
        );
    }
    for failure in &report.failures {
        lines += &format!("\n{failure}");
    }
    let right = report.cases - report.failed;
    let by = match report.of_libraries {
        0 => String::new(),
        of_libraries => format!(", {of_libraries} of them by cuBLASLt and cuDNN"),
    };
    lines + &format!("\n{right} of {} cases right{by} (errors are shares of what rounding explains)", report.cases)
}

fn list(rows: &[Coverage]) -> String {
    let mut lines = format!(
        "{:24} {:>6} {:>7} {:>9} {:>6} {:>6} {:>6}",
        "op", "cases", "random", "gradient", "wgsl", "cpu", "cuda"
    );
    for row in rows {
        let gradient = row.gradient.map_or("no rule".to_string(), |checked| checked.to_string());
        let of = |backend: &str| row.backends.get(backend).copied().unwrap_or_default();
        lines += &format!(
            "\n{:24} {:>6} {:>7} {gradient:>9} {:>6} {:>6} {:>6}",
            row.op,
            row.cases,
            row.random,
            of("wgsl"),
            of("cpu"),
            of("cuda")
        );
    }
    lines
}
