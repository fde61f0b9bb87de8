//! `convoy adapters`: what `--adapter` can name.

use super::console;
use convoy::Result;
use convoy::backend::{DeviceInfo, Finding, select};
use serde::Serialize;

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
    let devices: Vec<Checked> = select::list().into_iter().map(check).collect();
    match args.json {
        true => console::print_json(&devices),
        false => {
            devices.iter().try_for_each(|device| console::print(describe(device)))?;
            match gl_unlisted(&devices) {
                true => {
                    console::print("OpenGL devices are not listed beside others: --adapter gl opens the best of them")
                }
                false => Ok(()),
            }
        }
    }
}

/// Whether `--adapter gl` may name what is not in the list: OpenGL is asked for devices only when nothing else has one.
fn gl_unlisted(devices: &[Checked]) -> bool {
    let has = |backend: &str| devices.iter().any(|device| device.info.backend == backend);
    !cfg!(target_vendor = "apple") && !has("gl") && devices.iter().any(|device| device.info.backend != "cpu")
}

/// A device and what its own checks found.
#[derive(Serialize)]
struct Checked {
    #[serde(flatten)]
    info: DeviceInfo,
    findings: Vec<Finding>,
    /// Why it cannot be used, if it cannot.
    error: Option<String>,
}

fn check(info: DeviceInfo) -> Checked {
    let found = select::open(&info.index.to_string()).and_then(|(mut device, _)| device.probe());
    match found {
        Ok(findings) => Checked { info, findings, error: None },
        Err(error) => Checked { info, findings: Vec::new(), error: Some(error.to_string()) },
    }
}

fn describe(Checked { info, findings, error }: &Checked) -> String {
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
    for finding in findings {
        lines += &format!("\n   {}: {}", if finding.right { "ok" } else { "fault" }, finding.found);
    }
    if let Some(error) = error {
        lines += &format!("\n   cannot be used: {error}");
    }
    lines
}
