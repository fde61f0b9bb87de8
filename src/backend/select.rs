//! The choice of a device: what `--adapter` accepts, and what `auto` takes.

use super::cpu::CpuDevice;
#[cfg(feature = "cuda")]
use super::cuda::{self, CudaDevice};
use super::wgpu::{self, WgpuDevice};
use super::{Device, DeviceInfo, DeviceOptions, DeviceType, Precision, cpu};
use crate::error::{Error, Result};
use crate::graph::partition::Parallel;

/// Names of interfaces that `--adapter` understands; each takes that interface's best adapter.
const INTERFACES: [&str; 4] = ["vulkan", "metal", "dx12", "gl"];

/// A device other than the CPU backend, not yet opened.
enum Adapter {
    #[cfg(feature = "cuda")]
    Cuda(cuda::adapter::Adapter),
    Wgpu(wgpu::adapter::Adapter),
}

impl Adapter {
    fn info(&mut self) -> &mut DeviceInfo {
        match self {
            #[cfg(feature = "cuda")]
            Adapter::Cuda(adapter) => &mut adapter.info,
            Adapter::Wgpu(adapter) => &mut adapter.info,
        }
    }

    /// The device, and what there is to be said of it.
    fn open(&self, options: &DeviceOptions) -> Result<(Box<dyn Device>, String)> {
        match self {
            #[cfg(feature = "cuda")]
            Adapter::Cuda(adapter) => {
                let device = CudaDevice::open(adapter, options)?;
                let lacks = |why| format!("; slower than it could be: {why}");
                let note = device.lacks().map(lacks).unwrap_or_default();
                Ok((Box::new(device), note))
            }
            Adapter::Wgpu(adapter) => Ok((Box::new(WgpuDevice::open(adapter, options)?), String::new())),
        }
    }
}

/// Every device that this binary can use, best first; the last is the CPU backend.
pub fn list() -> Vec<DeviceInfo> {
    found(false).1
}

/// Opens the device that `selector` names (see `--adapter`), and says why it is this one.
///
/// # Errors
/// [`Error::Input`] when the selector names no device or more than one, with the list of those there are;
/// [`Error::Device`] when the machine has no device of a named interface, or the device cannot be opened.
pub fn open(selector: &str) -> Result<(Box<dyn Device>, String)> {
    open_with(selector, DeviceOptions::default())
}

/// [`open`] with options for a wgpu device. `CONVOY_MAX_BINDING_BYTES` sets the largest binding where they leave it open: to try
/// large parameters on a device that could bind them whole.
///
/// # Errors
/// As [`open`].
pub fn open_with(selector: &str, mut options: DeviceOptions) -> Result<(Box<dyn Device>, String)> {
    if options.max_binding_bytes.is_none() {
        options.max_binding_bytes = max_binding_bytes()?;
    }
    let selector = selector.trim();
    let variable = std::env::var("CONVOY_ADAPTER").is_ok_and(|value| value.trim() == selector);
    let reason = format!("chosen by {} {selector}", if variable { "CONVOY_ADAPTER" } else { "--adapter" });
    if selector.eq_ignore_ascii_case("cpu") {
        return Ok((open_cpu(None, &options)?, reason));
    }
    if is_cuda(selector) {
        check_cuda()?;
    }
    let (adapters, infos) = match is_cuda(selector) {
        true => described(cuda_adapters()), // Vulkan's drivers need not be looked for
        false => found(selector.eq_ignore_ascii_case("gl")),
    };
    if ["auto", ""].contains(&selector.to_lowercase().as_str()) {
        // An empty CONVOY_ADAPTER is an unset one.
        return automatic(&adapters, &infos, &options);
    }
    let chosen = choose(selector, &infos)?;
    match adapters.get(chosen) {
        Some(adapter) => adapter.open(&options).map(|(device, note)| (device, reason + &note)),
        None => Ok((open_cpu(None, &options)?, reason)),
    }
}

/// Whether a selector is `cuda` or `cuda:NUMBER`.
fn is_cuda(selector: &str) -> bool {
    selector.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case("cuda"))
}

/// Whether there are GPUs for the CUDA backend, and if not, why.
#[cfg(feature = "cuda")]
fn check_cuda() -> Result<()> {
    match cuda::adapter::adapters()?.is_empty() {
        true => Err(Error::device("NVIDIA's driver has no GPU; choose another --adapter")),
        false => Ok(()),
    }
}

#[cfg(not(feature = "cuda"))]
fn check_cuda() -> Result<()> {
    Err(Error::device(
        "the CUDA backend is not built in: build with `cargo build --release --features cuda`; NVIDIA's GPUs also work through \
         --adapter vulkan or dx12",
    ))
}

/// Opens the devices that `selector` names: one, or several with commas between, of which one may be named more than once, to run each
/// graph together. (A comma in a device's own name is part of it.)
///
/// # Errors
/// As [`open`]; and where `parallel` says what several devices divide among them, but there is one.
pub fn open_all(
    selector: &str,
    parallel: Option<Parallel>,
    options: DeviceOptions,
) -> Result<Vec<(Box<dyn Device>, String)>> {
    let names: Vec<&str> = match is_name(selector) {
        true => vec![selector],
        false => split(selector),
    };
    if let [only] = names[..] {
        let opened = open_with(only, options)?;
        return match parallel {
            None => Ok(vec![opened]),
            Some(_) => Err(Error::input(format!(
                "--parallel says what several devices divide among them, but --adapter {only} is one; name two or more, such \
                 as --adapter {only},{only}, or leave --parallel out"
            ))),
        };
    }
    if names.contains(&"") {
        return Err(Error::input(format!("--adapter {selector}: expected a device before and after each comma")));
    }
    names.into_iter().map(|name| open_with(name, options.clone())).collect()
}

/// At the commas that are not within parentheses: those are of a device's name, `llvmpipe (LLVM 15.0.6, 256 bits)`.
fn split(selector: &str) -> Vec<&str> {
    let mut depth = 0;
    let between = |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth <= 0
    };
    selector.split(between).map(str::trim).collect()
}

/// Whether a selector with a comma is one device's name, or a part of it.
fn is_name(selector: &str) -> bool {
    let lower = selector.trim().to_lowercase();
    // Numbers alone are those of devices.
    let is_one = !lower.contains(',');
    is_one
        || lower.contains(char::is_alphabetic)
            && found(false).1.iter().any(|info| info.name.to_lowercase().contains(&lower))
}

/// Says that only NVIDIA's libraries multiply such numbers.
pub(super) fn only_by_cuda(precision: Precision) -> Error {
    let built = if cfg!(feature = "cuda") { "" } else { ", and this convoy was built without --features cuda" };
    let name = precision.name();
    Error::device(format!(
        "--precision {name} is for NVIDIA's GPUs by --adapter cuda{built}; leave it out, or choose that --adapter"
    ))
}

/// The CPU backend, on so many threads.
fn open_cpu(threads: Option<usize>, options: &DeviceOptions) -> Result<Box<dyn Device>> {
    match options.precision {
        Precision::F32 => Ok(Box::new(CpuDevice::new(threads)?)),
        Precision::Tf32 | Precision::Bf16 => Err(only_by_cuda(options.precision)),
        other => Err(Error::device(format!(
            "the CPU backend computes in f32 only; leave --precision {} out, or choose a GPU with 16-bit floats (\"f16\" in \
             `convoy adapters --json`) by --adapter",
            other.name()
        ))),
    }
}

/// `auto`: the best GPU that opens, else the CPU backend. Never a GPU interface that the processor runs.
fn automatic(adapters: &[Adapter], infos: &[DeviceInfo], options: &DeviceOptions) -> Result<(Box<dyn Device>, String)> {
    let mut failures = String::new();
    #[cfg(feature = "cuda")]
    failures.extend(cuda::adapter::fault().map(|error| format!("; {error}")));
    for (adapter, info) in adapters.iter().zip(infos).filter(|(_, info)| !info.software) {
        let kind = match info.device_type {
            DeviceType::Discrete => "a discrete GPU",
            DeviceType::Integrated => "an integrated GPU",
            _ => "a GPU",
        };
        match adapter.open(options) {
            Ok((device, note)) => return Ok((device, format!("the best device found: {kind}{note}{failures}"))),
            // Of several cards often the same.
            Err(error) if failures.contains(&error.to_string()) => (),
            Err(error) => failures += &format!("; {error}"),
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let backend = format!("the CPU backend with {threads} thread{}", if threads == 1 { "" } else { "s" });
    let reason = match failures.is_empty() {
        true => format!("no GPU found, so {backend}"),
        false => format!("no GPU could be opened, so {backend}{failures}"),
    };
    let device = open_cpu(Some(threads), options)
        .map_err(|error| if failures.is_empty() { error } else { Error::device(format!("{error}{failures}")) })?;
    Ok((device, reason))
}

/// `CONVOY_MAX_BINDING_BYTES`.
fn max_binding_bytes() -> Result<Option<u64>> {
    const NAME: &str = "CONVOY_MAX_BINDING_BYTES";
    let bytes = |text: String| {
        text.trim().parse().map_err(|_| Error::input(format!("{NAME} is \"{text}\"; expected a number of bytes")))
    };
    std::env::var(NAME).ok().map(bytes).transpose()
}

/// The adapters with index and selectors, and the whole list's descriptions: theirs and the CPU backend's.
fn found(gl: bool) -> (Vec<Adapter>, Vec<DeviceInfo>) {
    let mut adapters = cuda_adapters();
    adapters.extend(wgpu::adapter::adapters(gl).into_iter().map(Adapter::Wgpu));
    described(adapters)
}

/// NVIDIA's GPUs by their own driver.
fn cuda_adapters() -> Vec<Adapter> {
    #[cfg(feature = "cuda")]
    return cuda::adapter::adapters().into_iter().flatten().map(Adapter::Cuda).collect();
    #[cfg(not(feature = "cuda"))]
    Vec::new()
}

fn described(mut adapters: Vec<Adapter>) -> (Vec<Adapter>, Vec<DeviceInfo>) {
    let infos = numbered(adapters.iter_mut().map(|adapter| adapter.info().clone()).chain([cpu::info()]).collect());
    for (adapter, info) in adapters.iter_mut().zip(&infos) {
        *adapter.info() = info.clone();
    }
    (adapters, infos)
}

/// Devices, the best first, with index and selectors.
fn numbered(all: Vec<DeviceInfo>) -> Vec<DeviceInfo> {
    let mut infos: Vec<DeviceInfo> = Vec::new();
    for info in all.iter().cloned() {
        let index = infos.len();
        let mut selectors = vec![index.to_string()];
        // Of two cards of one name each is an index; of one card through two interfaces the first one has the name.
        let named = |other: &&DeviceInfo| other.name.eq_ignore_ascii_case(&info.name);
        if all.iter().filter(named).filter(|other| other.backend == info.backend).count() == 1
            && !infos.iter().any(|other| named(&other))
        {
            selectors.push(info.name.clone());
        }
        let before = infos.iter().filter(|other| other.backend == info.backend).count();
        if before == 0 {
            selectors.push(info.backend.clone());
        }
        if info.backend == "cuda" {
            selectors.push(format!("cuda:{before}"));
        }
        infos.push(DeviceInfo { index, selectors, ..info });
    }
    infos
}

/// The place in `infos` of the one device that a selector names.
fn choose(selector: &str, infos: &[DeviceInfo]) -> Result<usize> {
    let lower = &*selector.to_lowercase();
    let message = |problem: &str| format!("--adapter {selector}: {problem}; {}", listing(infos));
    if INTERFACES.contains(&lower) {
        let best = infos.iter().position(|info| info.backend == lower);
        return best.ok_or_else(|| Error::device(message("this machine has no such device")));
    }
    if is_cuda(selector) {
        let named = infos.iter().position(|info| info.selectors.iter().any(|name| name == lower));
        return named.ok_or_else(|| Error::input(message("NVIDIA's driver has no such GPU")));
    }
    // One or two digits are an index and nothing else, for many a name holds them; the 970 of a "GTX 970" names it.
    if selector.len() <= 2
        && let Ok(index) = selector.parse::<usize>()
    {
        let known = Some(index).filter(|&index| index < infos.len());
        return known.ok_or_else(|| Error::input(message("no device has this index")));
    }
    let named = |matches: fn(&str, &str) -> bool| -> Vec<&DeviceInfo> {
        infos.iter().filter(|info| matches(&info.name.to_lowercase(), lower)).collect()
    };
    // A whole name may be part of another's: an RTX 4070 is no RTX 4070 Ti.
    let whole = named(|name, selector| name == selector);
    let matches = if whole.is_empty() { named(|name, selector| name.contains(selector)) } else { whole };
    match matches[..] {
        [only] => Ok(only.index),
        // One card through several interfaces.
        [best, ref others @ ..] if others.iter().all(|o| o.name == best.name && o.backend != best.backend) => {
            Ok(best.index)
        }
        [] => Err(Error::input(message("no device has this name"))),
        _ => Err(Error::input(message(&format!("{} devices have this in their name, give an index", matches.len())))),
    }
}

fn listing(infos: &[DeviceInfo]) -> String {
    let devices: Vec<_> = infos.iter().map(|i| format!("{}: {} ({})", i.index, i.name, i.backend)).collect();
    format!("devices are {}", devices.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: usize, name: &str, backend: &str) -> DeviceInfo {
        DeviceInfo { index, name: name.into(), backend: backend.into(), ..cpu::info() }
    }

    #[test]
    fn devices_are_between_commas_but_not_those_of_their_names() {
        assert_eq!(split("llvmpipe (LLVM 15.0.6, 256 bits), cpu"), ["llvmpipe (LLVM 15.0.6, 256 bits)", "cpu"]);
        assert_eq!(split("0,1"), ["0", "1"]);
        assert_eq!(split("a),b"), ["a)", "b"]);
        assert!(open_all(",", None, DeviceOptions::default()).is_err());
        assert!(!is_name("6, 2"), "numbers are those of devices");
    }

    #[test]
    fn selectors() {
        let infos = [
            device(0, "NVIDIA GeForce RTX 4090", "vulkan"),
            device(1, "NVIDIA GeForce GTX 970", "vulkan"),
            device(2, "llvmpipe (LLVM 15.0.6, 256 bits)", "vulkan"),
            device(3, "AMD EPYC", "cpu"),
            device(4, "NVIDIA GeForce RTX 4090 D", "vulkan"),
        ];
        let infos = numbered(infos.to_vec());
        let chosen = |selector| choose(selector, &infos).map_err(|e| (e.exit_code(), e.to_string()));
        for (selector, index) in [
            ("0", 0),
            ("970", 1),
            ("rtx 4090 d", 4),
            ("nvidia geforce RTX 4090", 0),
            ("vulkan", 0),
            ("llvmpipe", 2),
            ("epyc", 3),
        ] {
            assert_eq!(chosen(selector), Ok(index), "{selector}");
        }
        for (selector, code, part) in [
            ("geforce", 2, "3 devices"),
            ("0,1", 2, "no device has this name"),
            ("voodoo", 2, "1: NVIDIA GeForce GTX 970 (vulkan)"),
            ("metal", 3, "no such device"),
            ("5", 2, "no device has this index"),
            ("cuda:2", 2, "no such GPU"),
            ("cuda:x", 2, "no such GPU"),
        ] {
            let (got, message) = chosen(selector).unwrap_err();
            assert!(got == code && message.contains(part), "{selector}: {got} {message}");
        }
    }

    /// A card that two interfaces have goes by the better one where nothing is said of it.
    #[test]
    fn selectors_of_cards_of_several_interfaces() {
        let devices = [("NVIDIA H100", "cuda"), ("NVIDIA H100", "vulkan"), ("AMD EPYC", "cpu")];
        let infos = numbered(devices.map(|(name, backend)| device(0, name, backend)).to_vec());
        let selectors = infos.iter().map(|info| info.selectors.join(" ")).collect::<Vec<_>>();
        assert_eq!(selectors, ["0 NVIDIA H100 cuda cuda:0", "1 vulkan", "2 AMD EPYC cpu"]);
        for (selector, index) in [("h100", 0), ("NVIDIA H100", 0), ("CUDA", 0), ("cuda:0", 0), ("vulkan", 1)] {
            assert_eq!(choose(selector, &infos).unwrap(), index, "{selector}");
        }
        let two =
            [("NVIDIA H100", "cuda"), ("NVIDIA H100", "cuda"), ("NVIDIA H100", "vulkan"), ("NVIDIA H100", "vulkan")];
        let infos = numbered(two.map(|(name, backend)| device(0, name, backend)).to_vec());
        assert_eq!(choose("cuda:1", &infos).unwrap(), 1);
        assert!(choose("h100", &infos).unwrap_err().to_string().contains("4 devices"));
    }
}
