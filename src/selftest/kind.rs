//! Kinds of the same device: each takes ways through the kernels that the others do not.

use crate::backend::DeviceInfo;
use crate::backend::wgpu::{WgpuOptions, has_kernels};
use crate::ops::case::Case;

/// Windows of a value at most: more take long, and show nothing that a few do not.
const MOST_WINDOWS: u64 = 30;

/// How a device is opened for the cases.
#[derive(Clone, Debug)]
pub struct Kind {
    /// What a report adds to the names of cases.
    pub name: &'static str,
    /// How to open it.
    pub options: WgpuOptions,
}

impl Kind {
    /// As training has it, but with memory that holds NaN.
    pub fn plain() -> Kind {
        Kind { name: "", options: WgpuOptions { poison: true, ..WgpuOptions::default() } }
    }

    /// The others that make a difference to this device: run-time checks of indices, divisors and loops; small windows, as if
    /// values were larger than a device can bind; and where the processor runs the kernels, also those for GPUs.
    pub fn others(device: &DeviceInfo) -> Vec<Kind> {
        let plain = || Kind::plain().options;
        let windows = |bytes| WgpuOptions { max_binding_bytes: Some(bytes), grid_side: Some(5), ..plain() };
        let mut kinds = vec![
            Kind { name: "checked", options: WgpuOptions { checked: true, ..plain() } },
            Kind { name: "windows of 56 KiB", options: windows(56 * 1024) },
            Kind { name: "windows of 4 KiB", options: windows(4 * 1024) },
        ];
        if device.software {
            kinds.push(Kind { name: "kernels for GPUs", options: WgpuOptions { gpu_kernels: true, ..plain() } });
        }
        // The CPU backend has one way.
        if device.backend == "cpu" { Vec::new() } else { kinds }
    }

    /// Whether a case runs on it: where a row does not fit into a window, the device refuses.
    pub fn takes(&self, case: &Case) -> bool {
        let Some(limit) = self.options.max_binding_bytes else { return true };
        let mut types = case.types();
        types.extend(case.op.infer(&types).unwrap_or_default());
        types.iter().all(|ty| ty.bytes() as u64 <= MOST_WINDOWS * limit) && has_kernels(case, limit)
    }
}
