//! Compute pipelines with bind group layouts made from the shader's reflection, built once per kernel and constants.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;

use super::dispatch::{Dispatch, Key};
use super::pipeline_cache::PipelineCache;
use super::shaders::{BindingKind, Kernel};

/// Format of [`super::lowering::Memory::Texels`].
pub(super) const TEXEL_FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba32Float;

/// A pipeline and the layout of its one bind group.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// Pipelines and shader modules of a device by what they were made from.
#[derive(Debug, Default)]
pub(super) struct Pipelines {
    /// Whether shaders check indices, divisors and loops when they run, and clear workgroup memory.
    checked: bool,
    /// What the driver compiled before.
    cache: Option<PipelineCache>,
    /// Texts of shaders, and what is run in their place.
    replace: HashMap<String, String>,
    modules: HashMap<String, wgpu::ShaderModule>,
    pipelines: HashMap<Key, Arc<Pipeline>>,
}

impl Pipelines {
    pub fn new(checked: bool, replace: HashMap<String, String>, cache: Option<PipelineCache>) -> Self {
        Pipelines { checked, replace, cache, ..Default::default() }
    }

    /// WGSL text of a kernel, or what is run in its place.
    pub fn source(&self, kernel: &Kernel) -> wgpu::ShaderSource<'static> {
        let text = self.replace.get(kernel.source.as_ref()).cloned();
        wgpu::ShaderSource::Wgsl(text.map_or(kernel.source.clone(), Into::into))
    }

    /// The pipelines of the dispatches, made now, all at once, or before.
    pub fn get(&mut self, device: &wgpu::Device, dispatches: &[Dispatch]) -> Vec<Arc<Pipeline>> {
        let missing: HashMap<Key, &Dispatch> = dispatches.iter().map(|dispatch| (dispatch.key(), dispatch)).collect();
        let missing: Vec<_> = missing.into_iter().filter(|(key, _)| !self.pipelines.contains_key(key)).collect();
        // The entry points of a file share a module.
        let kernels = missing.iter().map(|(_, dispatch)| (dispatch.kernel.source.as_ref(), &dispatch.kernel));
        let kernels: HashMap<&str, &Kernel> =
            kernels.filter(|(source, _)| !self.modules.contains_key(*source)).collect();
        let made: Vec<_> =
            kernels.par_iter().map(|(source, kernel)| (source.to_string(), self.module(device, kernel))).collect();
        self.modules.extend(made);
        let made: Vec<_> = missing
            .into_par_iter()
            .map(|(key, dispatch)| {
                let module = &self.modules[dispatch.kernel.source.as_ref()];
                (key, Arc::new(self.build(device, module, dispatch)))
            })
            .collect();
        self.pipelines.extend(made);
        dispatches.iter().map(|dispatch| self.pipelines[&dispatch.key()].clone()).collect()
    }

    fn module(&self, device: &wgpu::Device, kernel: &Kernel) -> wgpu::ShaderModule {
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(&kernel.name), source: self.source(kernel) };
        let checks = match self.checked {
            true => wgpu::ShaderRuntimeChecks::checked(),
            false => wgpu::ShaderRuntimeChecks {
                bounds_checks: false,
                force_loop_bounding: false,
                int_div_checks: false,
                ..wgpu::ShaderRuntimeChecks::checked()
            },
        };
        // SAFETY: every shader is our own. Loops are bounded by uniform values, divisors are extents above zero, and
        // indices stay in the bound windows: the tests show that checks change no bit of a result (they cost up to a
        // quarter of a kernel's speed). Texels behind a texture's end may be read, by lanes whose sums are not stored:
        // Vulkan's image robustness, on which wgpu's own checks rely as well, makes that harmless.
        unsafe { device.create_shader_module_trusted(descriptor, checks) }
    }

    fn build(&self, device: &wgpu::Device, module: &wgpu::ShaderModule, dispatch: &Dispatch) -> Pipeline {
        let kernel = &dispatch.kernel;
        let label = Some(kernel.name.as_ref());
        let entries: Vec<_> = kernel
            .bindings
            .iter()
            .map(|binding| wgpu::BindGroupLayoutEntry {
                binding: binding.index,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: binding_type(binding.kind),
                count: None,
            })
            .collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &dispatch.overrides,
                // Kernels write workgroup memory before they read it; zeroing it takes FXC (Windows) many seconds to compile.
                zero_initialize_workgroup_memory: self.checked,
            },
            cache: self.cache.as_ref().map(|kept| &kept.cache),
        });
        Pipeline { pipeline, layout }
    }
}

fn binding_type(kind: BindingKind) -> wgpu::BindingType {
    let texels = |access| {
        let view_dimension = wgpu::TextureViewDimension::D2;
        wgpu::BindingType::StorageTexture { access, format: TEXEL_FORMAT, view_dimension }
    };
    let ty = match kind {
        BindingKind::Read => wgpu::BufferBindingType::Storage { read_only: true },
        BindingKind::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
        BindingKind::Uniform { .. } => wgpu::BufferBindingType::Uniform,
        BindingKind::Texels => return texels(wgpu::StorageTextureAccess::ReadOnly),
        BindingKind::WriteTexels => return texels(wgpu::StorageTextureAccess::WriteOnly),
    };
    wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None }
}
