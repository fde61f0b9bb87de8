//! Which wgpu adapters this machine has.

use super::matrices::Matrices;
use crate::backend::{DeviceInfo, DeviceType, Precision};

/// An adapter that can run convoy, and what is known of it.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `index` and `selectors` are for [`crate::backend::select`] to fill in.
    pub info: DeviceInfo,
    pub(super) wgpu: wgpu::Adapter,
}

/// All adapters that can compute, best first: discrete, integrated, virtual, software. GL is asked only when `gl` is set or
/// no other interface has an adapter: it is the weakest, and loading it writes warnings to stderr on machines without a display.
pub fn adapters(gl: bool) -> Vec<Adapter> {
    let mut found = enumerate(wgpu::Backends::PRIMARY);
    if gl || found.is_empty() {
        found.extend(enumerate(wgpu::Backends::GL));
    }
    found.sort_by_key(|adapter| (adapter.info.software, adapter.info.device_type));
    found
}

fn enumerate(backends: wgpu::Backends) -> Vec<Adapter> {
    let backends = backends & wgpu::Instance::enabled_backend_features();
    if backends.is_empty() {
        return Vec::new();
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    pollster::block_on(instance.enumerate_adapters(backends)).into_iter().filter_map(describe).collect()
}

/// None for an adapter without compute shaders of WebGPU's default size.
fn describe(adapter: wgpu::Adapter) -> Option<Adapter> {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let needed = wgpu::Limits::default();
    let computes = adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
        && limits.max_storage_buffers_per_shader_stage >= needed.max_storage_buffers_per_shader_stage
        && limits.max_compute_invocations_per_workgroup >= needed.max_compute_invocations_per_workgroup
        && limits.max_compute_workgroup_storage_size >= needed.max_compute_workgroup_storage_size
        && limits.max_compute_workgroups_per_dimension >= needed.max_compute_workgroups_per_dimension;
    if !computes {
        return None;
    }
    let device_type = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => DeviceType::Discrete,
        wgpu::DeviceType::IntegratedGpu => DeviceType::Integrated,
        wgpu::DeviceType::VirtualGpu => DeviceType::Virtual,
        wgpu::DeviceType::Cpu => DeviceType::Cpu,
        wgpu::DeviceType::Other => DeviceType::Other,
    };
    let backend = match info.backend {
        wgpu::Backend::Vulkan => "vulkan",
        wgpu::Backend::Metal => "metal",
        wgpu::Backend::Dx12 => "dx12",
        wgpu::Backend::Gl => "gl",
        wgpu::Backend::BrowserWebGpu => "webgpu",
        wgpu::Backend::Noop => return None,
    };
    let driver = format!("{} {}", info.driver, info.driver_info);
    let info = DeviceInfo {
        index: 0,
        name: info.name,
        backend: backend.into(),
        device_type,
        driver: driver.trim().into(),
        software: device_type == DeviceType::Cpu,
        selectors: Vec::new(),
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        memory_bytes: None,
        f16: features.contains(wgpu::Features::SHADER_F16),
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        matrices: [Precision::F32, Precision::f16(1)]
            .into_iter()
            .any(|precision| Matrices::of(&adapter, precision).is_some()),
    };
    Some(Adapter { info, wgpu: adapter })
}
