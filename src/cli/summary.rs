//! `convoy summary`: layers, shapes, parameters, work, and the memory of a training step.

use std::collections::HashMap;
use std::fmt::Write;

use serde::Serialize;

use super::console::{self, bytes};
use super::{exchange, model_help};
use convoy::error::Result;
use convoy::formats::{load_model, model_text};
use convoy::graph::partition::{Report, partition};
use convoy::graph::{Role, plan};
use convoy::models::{BuildOptions, LayerInfo, Model, OptimizerConfig, TrainGraph, train_graph};
use convoy::train::config::{ParallelKind, Settings};

/// Options of `convoy summary`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[arg(help = model_help(), default_value = "alexnet")]
    model: String,
    /// Print the model's file, to start one's own from
    #[arg(long, conflicts_with = "json")]
    dump: bool,
    /// Pictures in a step: what the memory is for
    #[arg(long, visible_alias = "batch-size", value_name = "N", default_value_t = 32)]
    batch: usize,
    /// Number of classes
    #[arg(long, value_name = "N", default_value_t = 2)]
    classes: usize,
    /// Height and width of the pictures, if not the model's own
    #[arg(long, value_name = "N")]
    image_size: Option<usize>,
    /// Also what so many devices would send each other in a training step, and the memory that each would need
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=64))]
    devices: Option<u16>,
    /// What the devices divide among them
    #[arg(long, value_enum, default_value_t = ParallelKind::Model, requires = "devices")]
    parallel: ParallelKind,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. Outputs and multiply-accumulates are one picture's, the memory is the whole batch's.
#[derive(Serialize)]
struct Summary {
    model: String,
    input: [usize; 3],
    batch: usize,
    layers: Vec<LayerInfo>,
    parameters: u64,
    macs: u64,
    training_memory_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exchange: Option<Report>,
    #[serde(skip)]
    memory: Memory,
    /// Multiply-accumulates of forward and backward, per picture.
    #[serde(skip)]
    training_macs: u64,
}

/// Device memory of a training step, bytes.
struct Memory {
    parameters: usize,
    optimizer: usize,
    inputs: usize,
    /// Activations and gradients, as the planner lets them share.
    slots: usize,
}

/// Runs `convoy summary`.
///
/// # Errors
/// When there is no such model, or it does not take pictures of this size.
pub fn run(args: Args) -> Result<()> {
    if args.dump {
        return console::print(model_text(&args.model)?.trim_end());
    }
    let model = load_model(&args.model)?;
    let options = BuildOptions { image_size: args.image_size, ..BuildOptions::new(args.batch, args.classes) };
    let summary = Summary::new(&model, &options, args.devices.map(|devices| (usize::from(devices), args.parallel)))?;
    match args.json {
        true => console::print_json(&summary),
        false => console::print(summary.table(&model, args.classes).trim_end()),
    }
}

impl Summary {
    /// With `divided` also of so many devices.
    fn new(model: &Model, options: &BuildOptions, divided: Option<(usize, ParallelKind)>) -> Result<Self> {
        // With the optimizer of the default preset, for its state takes memory too.
        let train = train_graph(model, options, &OptimizerConfig::from(&Settings::merge([])?), 0.0)?;
        let [height, width] = options.network_size(model);
        let memory = Memory::of(&train);
        let outputs = [train.loss, train.logits];
        let exchange = |(devices, parallel): (usize, ParallelKind)| -> Result<Report> {
            let partition = partition(&train.graph, &outputs, devices, parallel.into(), &HashMap::new())?;
            Ok(Report::new(&train.graph, &outputs, &partition))
        };
        Ok(Summary {
            model: model.name.clone(),
            input: [model.input[0], height, width],
            batch: options.batch,
            parameters: train.layers.iter().map(|l| l.parameters).sum(),
            macs: train.layers.iter().map(|l| l.macs).sum(),
            training_memory_bytes: memory.total() as u64,
            exchange: divided.map(exchange).transpose()?,
            training_macs: train.graph.nodes.iter().map(|node| train.graph.macs(node)).sum::<u64>()
                / options.batch as u64,
            layers: train.layers,
            memory,
        })
    }

    fn table(&self, model: &Model, classes: usize) -> String {
        let header = ["layer", "op", "output", "parameters", "MACs"].map(String::from);
        let mut rows = vec![header];
        for layer in &self.layers {
            let count = |n: u64| if n == 0 { "-".into() } else { thousands(n) };
            let (parameters, macs) = (count(layer.parameters), count(layer.macs));
            let op = if layer.frozen { format!("{}, frozen", layer.op) } else { layer.op.into() };
            rows.push([layer.name.clone(), op, extents(&layer.output), parameters, macs]);
        }
        let total = ["total".into(), String::new(), String::new(), thousands(self.parameters), thousands(self.macs)];
        rows.push(total);
        let widths: [usize; 5] = std::array::from_fn(|c| rows.iter().map(|row| row[c].len()).max().unwrap_or(0));
        let about = if model.about.is_empty() { String::new() } else { format!(": {}", model.about) };
        let mut text = format!("{}{about}\n", self.model);
        let _ = writeln!(
            text,
            "input {}, {classes} classes; output and MACs (multiply-accumulates) of one picture\n",
            extents(&self.input)
        );
        for (n, row) in rows.iter().enumerate() {
            if n == 1 || n == rows.len() - 1 {
                let _ = writeln!(text, "{}", "-".repeat(widths.iter().sum::<usize>() + 2 * 4));
            }
            let [a, b, c, d, e] = widths;
            let line = format!("{:a$}  {:b$}  {:c$}  {:>d$}  {:>e$}", row[0], row[1], row[2], row[3], row[4]);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let giga = |macs: u64| 2.0 * macs as f64 / 1e9;
        let (forward, training) = (giga(self.macs), giga(self.training_macs));
        let _ = writeln!(text, "\nwork per picture: {forward:.3} GFLOP forward, {training:.3} GFLOP in training");
        let Memory { parameters, optimizer, inputs, slots } = self.memory;
        let _ =
            writeln!(text, "memory of a training step, batch {}: {}", self.batch, bytes(self.memory.total() as u64));
        for (what, size) in [
            ("parameters", parameters),
            ("optimizer state (AdamW's, of the default preset; SGD with momentum has half of it)", optimizer),
            ("activations and gradients", slots),
            ("pictures and labels", inputs),
        ] {
            let _ = writeln!(text, "{:>12}  {what}", bytes(size as u64));
        }
        if let Some(report) = &self.exchange {
            let [line, table] = exchange::text(report, &[]);
            let _ = writeln!(text, "\n{line}\n\n{table}");
        }
        text
    }
}

impl Memory {
    fn of(train: &TrainGraph) -> Self {
        let graph = &train.graph;
        Memory {
            // Batch normalisation's running averages among them.
            parameters: train.parameters.iter().map(|p| graph[p.value].ty.bytes()).sum(),
            optimizer: train.states.iter().map(|(_, ty)| ty.bytes()).sum(),
            inputs: graph.with_role(Role::Input).map(|v| graph[v].ty.bytes()).sum(),
            slots: plan::plan(graph, &[train.loss, train.logits]).slot_bytes(),
        }
    }

    fn total(&self) -> usize {
        self.parameters + self.optimizer + self.inputs + self.slots
    }
}

/// `96x55x55`.
fn extents(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// `58,289,538`.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alexnet_in_figures() {
        let model = Model::find("alexnet").unwrap();
        let summary = Summary::new(&model, &BuildOptions::new(2, 2), None).unwrap();
        assert_eq!(summary.parameters, 58_289_538);
        assert_eq!(summary.macs, 1_131_168_288);
        // Backward is twice forward, but for conv1's gradient to its input.
        assert_eq!(summary.training_macs, 3 * summary.macs - summary.layers[0].macs);
        // Two moments: the default preset's optimizer is AdamW.
        assert_eq!(summary.memory.parameters as u64, 4 * summary.parameters);
        assert_eq!(summary.memory.optimizer as u64, 2 * 4 * summary.parameters);
        // The linear layers' gradients are not kept.
        assert!((summary.memory.slots as u64) < summary.parameters, "{}", summary.memory.slots);
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["layers"][0]["output"], serde_json::json!([96, 55, 55]));
        assert!(summary.table(&model, 2).contains("58,289,538"));
    }

    #[test]
    fn figures_for_people() {
        assert_eq!([0, 999, 1000, 1234567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([1023, 1536, 1 << 31].map(bytes), ["1023 B", "1.5 KiB", "2.0 GiB"]);
    }
}
