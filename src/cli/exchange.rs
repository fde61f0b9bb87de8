//! What several devices send each other in a step, and the memory that each needs, for people.

use std::fmt::Write;

use super::console::bytes;
use convoy::backend::DeviceInfo;
use convoy::graph::partition::{Edge, Memory, Report};

/// A line of the sums, and a table: what is sent for which layer, and the memory of each device beside that of one alone.
pub fn text(report: &Report, devices: &[&DeviceInfo]) -> [String; 2] {
    let memory: Vec<String> = report.memory.iter().map(|memory| bytes(memory.total())).collect();
    let line = format!(
        "{} devices: {} sent in a step; memory of each {}, of one alone {}",
        report.memory.len(),
        bytes(report.bytes_per_step),
        memory.join(", "),
        bytes(report.one_device.total())
    );
    let width = |of: fn(&Edge) -> &str, least: usize| {
        report.edges.iter().map(|edge| of(edge).len()).max().unwrap_or(0).max(least)
    };
    let (layers, values) = (width(|edge| &edge.layer, 5), width(|edge| &edge.value, 5));
    let mut table = format!("{:layers$}  {:values$}  from  to        bytes\n", "layer", "value");
    for Edge { layer, value, from, to, bytes } in &report.edges {
        let _ = writeln!(table, "{layer:layers$}  {value:values$}  {from:>4}  {to:>2}  {bytes:>11}");
    }
    let _ = writeln!(
        table,
        "\n{:>10}  {:>10}  {:>10}  {:>10}  {:>10}  memory of",
        "parameters", "state", "values", "inputs", "all"
    );
    let name = |number: usize| match devices.get(number) {
        Some(info) => format!("device {number}: {}", info.name),
        None => format!("device {number}"),
    };
    let rows = report.memory.iter().enumerate().map(|(number, memory)| (name(number), memory));
    for (name, memory) in rows.chain([("one device alone".into(), &report.one_device)]) {
        let Memory { parameters, state, inputs, slots } = *memory;
        let [parameters, state, slots, inputs, all] = [parameters, state, slots, inputs, memory.total()].map(bytes);
        let _ = writeln!(table, "{parameters:>10}  {state:>10}  {slots:>10}  {inputs:>10}  {all:>10}  {name}");
    }
    [line, table.trim_end().into()]
}
