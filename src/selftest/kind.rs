//! Kinds of the same device: each takes ways through the kernels that the others do not.

use std::borrow::Cow;

use crate::backend::wgpu::{differs_in_software, has_kernels, kernels};
use crate::backend::{DeviceInfo, DeviceOptions, Precision};
use crate::ops::Op;
use crate::ops::case::Case;
use crate::tensor::{Data, Tensor};

/// Windows of a value at most: more take long, and show nothing that a few do not.
const MOST_WINDOWS: u64 = 30;

/// Multiply-accumulates of a case for which each kernel is run that there is, at most; an eighth with numbers of fewer bits, whose kernels
/// are the same but for what they hold.
const MOST_MACS: u64 = 400_000;

/// What cotangents are multiplied by where products are of 16-bit floats.
const LOSS_SCALE: f32 = 8.0;

/// How a device is opened for the cases.
#[derive(Clone, Debug)]
pub struct Kind {
    /// What a report adds to the names of cases.
    pub name: Cow<'static, str>,
    /// How to open it.
    pub options: DeviceOptions,
    /// Whether it differs from the plain one in who computes products: NVIDIA's libraries, or nobody but convoy.
    of_products: bool,
    /// Whether the device has the kernels of matrices.
    matrices: bool,
}

impl Kind {
    /// As training has it, but with memory that holds NaN.
    pub fn plain() -> Kind {
        Kind::new("", DeviceOptions { poison: true, ..DeviceOptions::default() })
    }

    /// One that takes all cases that the options allow.
    pub fn new(name: impl Into<Cow<'static, str>>, options: DeviceOptions) -> Kind {
        Kind { name: name.into(), of_products: false, matrices: options.matrices.is_some(), options }
    }

    /// The others that make a difference to this device: run-time checks of indices, divisors and loops; small windows, as if
    /// values were larger than a device can bind; where the processor runs the kernels, also those for GPUs; each of the kernels
    /// that an op chooses between; and where the device has them, products of 16-bit floats.
    pub fn others(device: &DeviceInfo) -> Vec<Kind> {
        let plain = || DeviceOptions { own_kernels: true, ..Kind::plain().options };
        let windows = |bytes| DeviceOptions { max_binding_bytes: Some(bytes), grid_side: Some(5), ..plain() };
        let gpu = || DeviceOptions { gpu_kernels: true, ..plain() };
        let mut kinds = vec![
            Kind::new("checked", DeviceOptions { checked: true, ..plain() }),
            Kind::new("windows of 56 KiB", windows(56 * 1024)),
            Kind::new("windows of 4 KiB", windows(4 * 1024)),
        ];
        if device.software {
            kinds.push(Kind::new("kernels for GPUs", gpu()));
        }
        if device.backend == "cuda" {
            let by_libraries = |precision| DeviceOptions { precision, ..Kind::plain().options };
            let ways = [
                ("convoy's own kernels", plain()),
                ("TF32", by_libraries(Precision::Tf32)),
                ("bfloat16", by_libraries(Precision::Bf16)),
            ];
            kinds.extend(ways.map(|(name, options)| Kind { of_products: true, ..Kind::new(name, options) }));
        }
        let matrices = device.matrices;
        let most = Op::all_cases().iter().map(|case| kernels(case, matrices)).max().unwrap_or(1);
        kinds.extend((1..most).map(|candidate| {
            let name = format!("kernel {} of {most}", candidate + 1);
            Kind { matrices, ..Kind::new(name, DeviceOptions { candidate, ..gpu() }) }
        }));
        if device.f16 {
            let precision = Precision::F16 { loss_scale: LOSS_SCALE };
            kinds.extend((0..most).map(|candidate| {
                let name = format!("16-bit floats, kernel {} of {most}", candidate + 1);
                Kind { matrices, ..Kind::new(name, DeviceOptions { candidate, precision, ..gpu() }) }
            }));
        }
        // The CPU backend has one way.
        if device.backend == "cpu" { Vec::new() } else { kinds }
    }

    /// Whether products are of numbers with fewer bits than f32 has.
    pub fn rounds(&self) -> bool {
        self.options.precision != Precision::F32
    }

    /// Whether products are NVIDIA's libraries' alone: there is no such kind where they are not installed.
    pub fn is_of_libraries(&self) -> bool {
        matches!(self.options.precision, Precision::Tf32 | Precision::Bf16)
    }

    /// To how much of itself a product may be rounded when it is stored.
    pub fn rounding(&self) -> f64 {
        if self.options.precision == Precision::Bf16 { 2_f64.powi(-8) } else { 0.0 }
    }

    /// Values that an input of a case has on it: where products are of numbers with fewer bits, such numbers, so that the reference
    /// multiplies what the device does.
    pub fn values(&self, tensor: Tensor) -> Tensor {
        let Data::F32(values) = tensor.data() else { return tensor };
        let near = match self.options.precision {
            Precision::F32 => return tensor,
            Precision::Tf32 | Precision::Bf16 => to_bf16,
            Precision::F16 { .. } => to_f16,
        };
        let values = values.iter().map(|&v| near(v)).collect();
        Tensor::f32(tensor.shape().clone(), values).unwrap_or(tensor)
    }

    /// Whether a case runs on it: where a row does not fit into a window, the device refuses; each of several kernels runs
    /// the cases that are not large; kernels for GPUs run those for which software has others, the plain kind runs all.
    pub fn takes(&self, case: &Case) -> bool {
        let kernels = kernels(case, self.matrices);
        let (candidate, macs) = (self.options.candidate, case.op.macs(&case.types()));
        let has_products = if self.of_products { macs > 0 } else { kernels > 1 };
        if (self.of_products || self.rounds()) && !has_products || candidate >= kernels {
            return false;
        }
        let most = if self.rounds() { MOST_MACS / 8 } else { MOST_MACS };
        if (self.rounds() || candidate > 0) && macs > most {
            return false;
        }
        if self.options.gpu_kernels && candidate == 0 && !self.rounds() && !differs_in_software(case) {
            return false;
        }
        let Some(limit) = self.options.max_binding_bytes else { return true };
        let mut types = case.types();
        types.extend(case.op.infer(&types).unwrap_or_default());
        types.iter().all(|ty| ty.bytes() as u64 <= MOST_WINDOWS * limit) && has_kernels(case, limit)
    }
}

/// A number near `v` that 16-bit floats have, and [`LOSS_SCALE`] times as large too; those that some devices take for 0 become 0.
fn to_f16(v: f32) -> f32 {
    let rounded = f32::from_bits((v.to_bits() + 0x1000) & !0x1fff);
    match rounded.abs() {
        _ if !v.is_finite() => v,
        size if size < 2f32.powi(-14) => 0.0,
        _ => rounded.clamp(-65504.0 / LOSS_SCALE, 65504.0 / LOSS_SCALE),
    }
}

/// The bfloat16 next to `v`, towards 0; TensorFloat-32 has it too.
fn to_bf16(v: f32) -> f32 {
    if v.is_nan() { v } else { f32::from_bits(v.to_bits() & 0xffff_0000) }
}

#[cfg(test)]
mod tests {
    use super::to_f16;

    #[test]
    fn numbers_become_those_of_16_bits() {
        let cases =
            [(0.1, 0.099_975_586), (-3.0, -3.0), (1e-5, 0.0), (1e9, 8188.0), (f32::NEG_INFINITY, f32::NEG_INFINITY)];
        for (v, expected) in cases {
            assert_eq!(to_f16(v), expected);
        }
        assert!(to_f16(f32::NAN).is_nan());
    }
}
