//! `convoy adapters`: what `--adapter` can name.

use super::console;
use convoy::Result;
use convoy::backend::{DeviceInfo, select};

/// Options of `convoy adapters`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Lists the devices.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(args: Args) -> Result<()> {
    let devices = select::list();
    match args.json {
        true => console::print_json(&devices),
        false => devices.iter().try_for_each(|info| console::print(describe(info))),
    }
}

fn describe(info: &DeviceInfo) -> String {
    let DeviceInfo { index, name, backend, driver, .. } = info;
    let kind = format!("{:?}", info.device_type).to_lowercase();
    let software = if info.software { ", run by the processor: only when named" } else { "" };
    let mib = |bytes: u64| bytes >> 20;
    let selectors = info.selectors.join(" | ");
    let mut lines = format!("{index}: {name} ({backend}, {kind}{software})\n   --adapter {selectors}");
    if !driver.is_empty() {
        lines += &format!("\n   driver {driver}");
    }
    lines += &format!(
        "\n   largest binding {} MiB, largest buffer {} MiB",
        mib(info.max_binding_bytes),
        mib(info.max_buffer_bytes)
    );
    if let Some(memory) = info.memory_bytes {
        lines += &format!(", memory {} MiB", mib(memory));
    }
    lines
}
