//! What the tests share: the devices to run on, the comparison of numbers that rounding alone sets apart, a short training,
//! and the binary.
#![allow(dead_code)] // each test file uses its own part

pub mod binary;
pub mod training;

use convoy::backend::DeviceOptions;
use convoy::backend::cpu::CpuDevice;
use convoy::backend::{Device, select};
use convoy::tensor::Tensor;

/// The CPU backend on as many threads as the machine has.
pub fn cpu() -> Box<dyn Device> {
    Box::new(CpuDevice::new(None).expect("threads can be started"))
}

/// Selector of the wgpu device under test: `CONVOY_ADAPTER`, or the first Vulkan adapter, a software one too.
///
/// # Panics
/// With advice when there is none: kernels that no test ran are not tested.
pub fn gpu_selector() -> String {
    if let Ok(selector) = std::env::var("CONVOY_ADAPTER") {
        return selector;
    }
    let devices = select::list();
    match devices.iter().find(|d| d.backend == "vulkan") {
        Some(device) => device.index.to_string(),
        None => panic!(
            "no Vulkan adapter to test the shaders on. A software one will do; on Debian or Ubuntu:\n  \
             apt-get install -y mesa-vulkan-drivers\n\
             or name another device of `convoy adapters` by CONVOY_ADAPTER; found {:?}",
            devices.iter().map(|d| format!("{} ({})", d.name, d.backend)).collect::<Vec<_>>()
        ),
    }
}

/// The wgpu device under test, see [`gpu_selector`]; its fresh memory holds NaN.
pub fn gpu() -> Box<dyn Device> {
    gpu_with(DeviceOptions { poison: true, ..DeviceOptions::default() })
}

/// The same device with options of its own.
pub fn gpu_with(options: DeviceOptions) -> Box<dyn Device> {
    let selector = gpu_selector();
    let (device, _) = select::open_with(&selector, options).unwrap_or_else(|e| panic!("--adapter {selector}: {e}"));
    assert_ne!(device.info().backend, "cpu", "CONVOY_ADAPTER={selector} names no GPU interface: leave it unset");
    device
}

/// The tensor's elements as f64.
pub fn as_f64(tensor: &Tensor) -> Vec<f64> {
    convoy::ops::Array::from(tensor).data
}

/// Compares element by element: everything finite where `expected` is, then `|got - expected| <= atol + rtol * |expected|`.
/// The message names the worst element.
pub fn compare(what: &str, got: &[f64], expected: &[f64], (atol, rtol): (f64, f64)) -> Result<(), String> {
    if got.len() != expected.len() {
        return Err(format!("{what}: {} elements, expected {}", got.len(), expected.len()));
    }
    if let Some(i) = (0..got.len()).find(|&i| expected[i].is_finite() && !got[i].is_finite()) {
        return Err(format!("{what}: element {i} is {}, expected {}", got[i], expected[i]));
    }
    let excess = |i: usize| (got[i] - expected[i]).abs() / (atol + rtol * expected[i].abs());
    // NaN is wrong too; equal infinities have no difference to measure.
    let off = |i: usize| got[i] != expected[i] && (excess(i).is_nan() || excess(i) > 1.0);
    let wrong: Vec<usize> = (0..got.len()).filter(|&i| off(i)).collect();
    let Some(&worst) = wrong.iter().max_by(|&&a, &&b| excess(a).total_cmp(&excess(b))) else { return Ok(()) };
    Err(format!(
        "{what}: {} of {} elements are off; the worst, {worst}: got {}, expected {}, {:.1} times the tolerance \
         {atol:.1e} + {rtol:.1e} * |expected|; the first is {}",
        wrong.len(),
        got.len(),
        got[worst],
        expected[worst],
        excess(worst),
        wrong[0],
    ))
}

/// Fails with every message at once, so that one run shows all that is wrong.
pub fn assert_none(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
