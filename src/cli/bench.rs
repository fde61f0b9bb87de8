//! `convoy bench`: speed of training and of inference on made-up pictures.

use std::fmt::Write;
use std::path::PathBuf;

use super::bench_data;
use super::console::{self, Console, bytes};
use super::exchange;
use super::{DeviceArgs, TuneName, model_help, tune_device};
use convoy::backend::DeviceInfo;
use convoy::backend::DeviceOptions;
use convoy::bench::{BenchOptions, Mode, Report, bench, graph};
use convoy::error::Result;
use convoy::formats::load_model;
use convoy::models::{BuildOptions, OptimizerConfig, with_margin};
use convoy::ops::Crop;
use convoy::train::config::PrecisionKind;

/// Options of `convoy bench`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[arg(long, help = model_help(), default_value = "alexnet")]
    model: String,
    /// What is timed
    #[arg(long, value_enum, default_value_t = ModeName::Train)]
    mode: ModeName,
    /// Pictures in a step
    #[arg(long, visible_alias = "batch", value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Number of classes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    classes: u32,
    /// Height and width of the pictures, if not the model's own
    #[arg(long, value_name = "N")]
    image_size: Option<usize>,
    /// Optimizer of the training step
    #[arg(long, value_enum, default_value_t = OptimizerName::Adam)]
    optimizer: OptimizerName,
    /// What convolutions and fully connected layers multiply
    #[arg(long, value_enum, default_value_t = PrecisionKind::F32)]
    precision: PrecisionKind,
    /// Steps that count
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    steps: u32,
    /// Steps before, after the first, that do not
    #[arg(long, value_name = "N", default_value_t = 2)]
    warmup: u32,
    /// Time each kernel too, by the device's clock where it has one
    #[arg(long)]
    profile: bool,
    /// Time how fast the pictures in this folder come, from their files and from the cache, in place of a network
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Train on the pictures of --data too, beside training on pictures in memory; with as many threads as --workers has last
    #[arg(long, requires = "data")]
    end_to_end: bool,
    /// Numbers of threads that --data is timed with
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = [1, 2], requires = "data")]
    workers: Vec<usize>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Search for the fastest kernels on this device before; what is found is kept for the next time
    #[arg(long, value_enum, default_value_t = TuneName::Quick)]
    tune: TuneName,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum ModeName {
    /// Forward, loss, backward, optimizer
    Train,
    /// Forward
    Infer,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum OptimizerName {
    /// With momentum
    Sgd,
    Adam,
    Adamw,
}

/// Measures and prints.
///
/// # Errors
/// When the model or the device cannot be used.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let model = load_model(&args.model)?;
    let build = BuildOptions::new(args.batch_size as usize, args.classes as usize);
    let options = BenchOptions {
        mode: match args.mode {
            ModeName::Train => Mode::Train,
            ModeName::Infer => Mode::Infer,
        },
        build: BuildOptions { image_size: args.image_size, ..build },
        optimizer: match args.optimizer {
            OptimizerName::Sgd => OptimizerConfig::sgd(0.9, 5e-4),
            OptimizerName::Adam => OptimizerConfig::adam(0.0),
            OptimizerName::Adamw => OptimizerConfig::adamw(0.01),
        },
        warmup: args.warmup as usize,
        steps: args.steps as usize,
        profile: args.profile,
    };
    let console = &console.without_output(args.json);
    let precision = args.precision.of_batch(options.build.batch);
    let open = || args.device.open_with(DeviceOptions { precision, ..DeviceOptions::default() }, console);
    if let Some(folder) = args.data {
        let size = options.build.network_size(&model).map(with_margin); // the margin of the default preset's crops
        let mut measured = bench_data::Measured::new(folder, size, options.build.batch, &args.workers, console)?;
        if args.end_to_end {
            let options = BenchOptions {
                build: BuildOptions { stored_size: Some(size), crop: Crop::Random, flip: true, ..options.build },
                ..options
            };
            let mut device = open()?;
            tune_device(&mut *device, &graph(&model, &options)?, args.tune, console)?;
            measured.train(&mut *device, &model, &options)?;
        }
        return measured.print(args.json);
    }
    let mut device = open()?;
    tune_device(&mut *device, &graph(&model, &options)?, args.tune, console)?;
    let report = bench(&mut *device, &model, &options)?;
    match args.json {
        true => console::print_json(&report),
        false => console::print(text(&report, &device.parts()).trim_end()),
    }
}

fn text(report: &Report, devices: &[&DeviceInfo]) -> String {
    let mode = match report.mode {
        Mode::Train => "training",
        Mode::Infer => "inference",
    };
    let mut text = format!("{}, {mode}, batch {}, {}\n", report.model, report.batch, report.precision);
    let _ = writeln!(
        text,
        "{:.2} pictures/s: {:.2} ms a step (median of {}), {:.1} GFLOP/s; the first step took {:.0} ms",
        report.images_per_second, report.ms_per_step, report.steps, report.gflops, report.first_step_ms
    );
    let take = if report.exchange.is_some() { "on one device alone activations take" } else { "activations take" };
    let _ = writeln!(
        text,
        "peak memory {}; {take} {}, and would {} had each its own",
        bytes(report.peak_memory_bytes),
        bytes(report.slot_bytes),
        bytes(report.value_bytes)
    );
    for refused in &report.refused {
        let _ = writeln!(text, "{refused}");
    }
    if let Some(exchange) = &report.exchange {
        let [line, table] = exchange::text(exchange, devices);
        let _ = writeln!(text, "{line}\n\n{table}");
    }
    if report.kernels.is_empty() {
        return text;
    }
    if let Some(rate) = report.copy_gb_per_s {
        let _ = writeln!(text, "a large copy moves {rate:.1} GB/s, read and written");
    }
    let width = report.kernels.iter().map(|kernel| kernel.name.len()).max().unwrap_or(0);
    let _ = writeln!(text, "\n{:width$}  calls        ms  share  GFLOP/s    GB/s  of a copy", "kernel");
    for kernel in &report.kernels {
        let gflops = if kernel.gflops > 0.0 { format!("{:.1}", kernel.gflops) } else { "-".into() };
        let of_copy = report.copy_gb_per_s.map_or("-".into(), |rate| format!("{:.0}%", 100.0 * kernel.gb_per_s / rate));
        let _ = writeln!(
            text,
            "{:width$}  {:>5}  {:>8.3}  {:>4.1}%  {gflops:>7}  {:>6.1}  {of_copy:>9}",
            kernel.name,
            kernel.calls,
            kernel.ms,
            kernel.share * 100.0,
            kernel.gb_per_s
        );
    }
    text
}
