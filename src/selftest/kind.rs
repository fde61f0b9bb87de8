//! Kinds of the same device: each takes ways through the kernels that the others do not.

use std::borrow::Cow;

use crate::backend::DeviceInfo;
use crate::backend::wgpu::{WgpuOptions, has_kernels, kernels};
use crate::ops::Op;
use crate::ops::case::Case;

/// Windows of a value at most: more take long, and show nothing that a few do not.
const MOST_WINDOWS: u64 = 30;

/// Multiply-accumulates of a case for which each kernel is run that there is, at most.
const MOST_MACS: u64 = 400_000;

/// How a device is opened for the cases.
#[derive(Clone, Debug)]
pub struct Kind {
    /// What a report adds to the names of cases.
    pub name: Cow<'static, str>,
    /// How to open it.
    pub options: WgpuOptions,
}

impl Kind {
    /// As training has it, but with memory that holds NaN.
    pub fn plain() -> Kind {
        Kind { name: "".into(), options: WgpuOptions { poison: true, ..WgpuOptions::default() } }
    }

    /// The others that make a difference to this device: run-time checks of indices, divisors and loops; small windows, as if
    /// values were larger than a device can bind; where the processor runs the kernels, also those for GPUs; and each of the
    /// kernels that an op chooses between.
    pub fn others(device: &DeviceInfo) -> Vec<Kind> {
        let plain = || Kind::plain().options;
        let windows = |bytes| WgpuOptions { max_binding_bytes: Some(bytes), grid_side: Some(5), ..plain() };
        let gpu = || WgpuOptions { gpu_kernels: true, ..plain() };
        let kind = |name: &'static str, options| Kind { name: name.into(), options };
        let mut kinds = vec![
            kind("checked", WgpuOptions { checked: true, ..plain() }),
            kind("windows of 56 KiB", windows(56 * 1024)),
            kind("windows of 4 KiB", windows(4 * 1024)),
        ];
        if device.software {
            kinds.push(kind("kernels for GPUs", gpu()));
        }
        let most = Op::all_cases().iter().map(kernels).max().unwrap_or(1);
        kinds.extend((1..most).map(|candidate| {
            let name = format!("kernel {} of {most}", candidate + 1);
            Kind { name: name.into(), options: WgpuOptions { candidate, ..gpu() } }
        }));
        // The CPU backend has one way.
        if device.backend == "cpu" { Vec::new() } else { kinds }
    }

    /// Whether a case runs on it: where a row does not fit into a window, the device refuses; each of several kernels runs
    /// the cases that are not large.
    pub fn takes(&self, case: &Case) -> bool {
        let (candidate, macs) = (self.options.candidate, case.op.macs(&case.types()));
        if candidate > 0 && (candidate >= kernels(case) || macs > MOST_MACS) {
            return false;
        }
        let Some(limit) = self.options.max_binding_bytes else { return true };
        let mut types = case.types();
        types.extend(case.op.infer(&types).unwrap_or_default());
        types.iter().all(|ty| ty.bytes() as u64 <= MOST_WINDOWS * limit) && has_kernels(case, limit)
    }
}
