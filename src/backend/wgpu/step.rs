//! Dispatches with what they need: the buffers of a program, and pipelines and bind groups, made once.

use std::collections::HashMap;
use std::sync::Arc;

use super::device::Shared;
use super::dispatch::{Dispatch, TexelCopy};
use super::lowering::{ALIGNMENT, Memory, TEXTURE_WIDTH, padded};
use super::pipeline::{Pipeline, TEXEL_FORMAT};
use super::shaders::BindingKind;
use crate::error::Result;

/// A dispatch with everything that it needs, ready to be encoded.
pub(super) struct Step {
    /// Number of the node in the graph.
    pub node: usize,
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    groups: [u32; 3],
    copies: Vec<Copy>,
}

/// Part of a buffer and a box of a texture.
struct Copy {
    buffer: wgpu::Buffer,
    offset: u64,
    texture: wgpu::Texture,
    origin: wgpu::Origin3d,
    extent: wgpu::Extent3d,
}

impl Step {
    /// Encodes all steps in as few passes as their copies allow.
    pub fn encode_all(steps: &[Step], encoder: &mut wgpu::CommandEncoder) {
        for steps in steps.chunk_by(|_, next| next.copies.is_empty()) {
            steps[0].encode_copies(encoder);
            let mut pass = encoder.begin_compute_pass(&Default::default());
            steps.iter().for_each(|step| step.encode(&mut pass));
        }
    }

    /// What goes before the pass of [`Step::encode`].
    pub fn encode_copies(&self, encoder: &mut wgpu::CommandEncoder) {
        for copy in &self.copies {
            let layout = wgpu::TexelCopyBufferLayout {
                offset: copy.offset,
                bytes_per_row: Some(TEXTURE_WIDTH * 16),
                rows_per_image: None,
            };
            let to = wgpu::TexelCopyTextureInfo { origin: copy.origin, ..copy.texture.as_image_copy() };
            encoder.copy_buffer_to_texture(wgpu::TexelCopyBufferInfo { buffer: &copy.buffer, layout }, to, copy.extent);
        }
    }

    pub fn encode(&self, pass: &mut wgpu::ComputePass) {
        let [x, y, z] = self.groups;
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// The buffers of a program.
#[derive(Default)]
pub(super) struct Buffers {
    pub by_place: HashMap<Memory, wgpu::Buffer>,
    /// By the number in [`Memory::Texels`].
    textures: Vec<(wgpu::Texture, wgpu::TextureView)>,
    /// Of the program's own.
    pub bytes: u64,
}

impl Buffers {
    pub fn allocate(&mut self, shared: &Shared, name: &str, bytes: u64) -> Result<wgpu::Buffer> {
        self.bytes += padded(bytes);
        shared.buffer(name, bytes)
    }

    pub fn add_texture(&mut self, shared: &Shared, rows: u32) {
        self.bytes += TEXTURE_WIDTH as u64 * rows as u64 * 16;
        let texture = shared.device.create_texture(&wgpu::TextureDescriptor {
            label: Some("texels"),
            size: wgpu::Extent3d { width: TEXTURE_WIDTH, height: rows, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: TEXEL_FORMAT,
            usage: wgpu::TextureUsages::STORAGE_BINDING | wgpu::TextureUsages::COPY_DST,
            view_formats: &[],
        });
        if shared.poison {
            let size = texture.size();
            let nan = vec![f32::NAN; 4 * (size.width * size.height) as usize];
            let layout = wgpu::TexelCopyBufferLayout {
                offset: 0,
                bytes_per_row: Some(TEXTURE_WIDTH * 16),
                rows_per_image: None,
            };
            shared.queue.write_texture(texture.as_image_copy(), bytemuck::cast_slice(&nan), layout, size);
        }
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        self.textures.push((texture, view));
    }

    fn copies(&self, copy: &TexelCopy) -> impl Iterator<Item = Copy> {
        copy.boxes().map(|(offset, [x, y], [width, height])| Copy {
            buffer: self.by_place[&copy.from].clone(),
            offset,
            texture: self.textures[copy.to].0.clone(),
            origin: wgpu::Origin3d { x, y, z: 0 },
            extent: wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
        })
    }
}

/// The uniforms of all dispatches for one buffer, and the aligned offset of each.
pub(super) fn uniforms(dispatches: &[Dispatch]) -> (Vec<u8>, Vec<u64>) {
    let mut uniforms: Vec<u8> = Vec::new();
    let mut offsets = Vec::new();
    for dispatch in dispatches {
        uniforms.resize(uniforms.len().next_multiple_of(ALIGNMENT as usize), 0);
        offsets.push(uniforms.len() as u64);
        uniforms.extend(&dispatch.uniform);
    }
    uniforms.resize(padded(uniforms.len() as u64) as usize, 0);
    (uniforms, offsets)
}

/// Pipelines and bind groups.
pub(super) fn steps(shared: &Shared, memory: &mut Buffers, dispatches: &[Dispatch]) -> Result<Vec<Step>> {
    let (uniforms, offsets) = uniforms(dispatches);
    let uniform_buffer = shared.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("uniforms"),
        size: uniforms.len() as u64,
        usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    shared.queue.write_buffer(&uniform_buffer, 0, &uniforms);
    memory.bytes += uniforms.len() as u64;
    let range = |buffer, offset, size| {
        let size = wgpu::BufferSize::new(size);
        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
    };
    let pipelines = shared.pipelines().get(&shared.device, dispatches);
    let mut steps = Vec::new();
    for ((dispatch, uniform_offset), pipeline) in dispatches.iter().zip(offsets).zip(pipelines) {
        let mut entries: Vec<_> = dispatch
            .windows
            .iter()
            .map(|(binding, window)| wgpu::BindGroupEntry {
                binding: *binding,
                resource: match window.memory {
                    Memory::Texels(index) => wgpu::BindingResource::TextureView(&memory.textures[index].1),
                    place => {
                        let buffer = &memory.by_place[&place];
                        range(buffer, window.offset, shared.reach(window).min(buffer.size() - window.offset))
                    }
                },
            })
            .collect();
        for binding in dispatch.kernel.bindings {
            if let BindingKind::Uniform { size, .. } = binding.kind {
                let resource = range(&uniform_buffer, uniform_offset, size as u64);
                entries.push(wgpu::BindGroupEntry { binding: binding.index, resource });
            }
        }
        let bind_group = shared.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&dispatch.label),
            layout: &pipeline.layout,
            entries: &entries,
        });
        shared.check()?;
        let copies = dispatch.copies.iter().flat_map(|copy| memory.copies(copy)).collect();
        steps.push(Step { node: dispatch.node, pipeline, bind_group, groups: dispatch.groups, copies });
    }
    Ok(steps)
}
