//! Dispatches as plain data, and how an op makes one: by the names that the shader gives its variables.

use std::ops::Range;

use super::lowering::{Lowering, MAX_GROUPS, Memory, TEXTURE_WIDTH, ValueRef, Window};
use super::shaders::{BindingKind, Kernel};
use crate::error::{Error, Result};

/// One dispatch, ready to be encoded.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    /// Number of the node in the graph.
    pub node: usize,
    /// The layer and kernel, for profiles and messages.
    pub label: String,
    /// What runs.
    pub kernel: Kernel,
    /// Values of pipeline constants.
    pub overrides: Vec<(&'static str, f64)>,
    /// `@binding` index and window.
    pub windows: Vec<(u32, Window)>,
    /// What is copied before it runs.
    pub copies: Vec<TexelCopy>,
    /// Bytes of the uniform struct; empty without one.
    pub uniform: Vec<u8>,
    /// Workgroups.
    pub groups: [u32; 3],
}

/// What tells pipelines apart: kernel name, and the constants' names and bits.
pub(crate) type Key = (String, Vec<(&'static str, u64)>);

impl Dispatch {
    /// The key of its pipeline.
    pub fn key(&self) -> Key {
        let constants = self.overrides.iter().map(|&(name, value)| (name, value.to_bits())).collect();
        (self.kernel.name.to_string(), constants)
    }
}

/// Elements of a buffer, four by four, into texels of a texture.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct TexelCopy {
    /// The buffer.
    pub from: Memory,
    /// Bytes from its start, a multiple of 16.
    pub offset: u64,
    /// How many.
    pub texels: u32,
    /// The texture's number in [`Memory::Texels`].
    pub to: usize,
    /// The texture's row where they begin.
    pub row: u32,
}

impl TexelCopy {
    /// One or two boxes, whole rows of the texture and the last row's part: bytes from the buffer's start, the box's origin
    /// and its extent.
    pub fn boxes(&self) -> impl Iterator<Item = (u64, [u32; 2], [u32; 2])> + use<> {
        let (rows, rest) = (self.texels / TEXTURE_WIDTH, self.texels % TEXTURE_WIDTH);
        let (offset, row) = (self.offset, self.row);
        let boxes = [(0, [TEXTURE_WIDTH, rows]), (rows, [rest, 1])].into_iter();
        boxes
            .filter(|(_, extent)| extent.iter().all(|&n| n > 0))
            .map(move |(y, extent)| (offset + u64::from(y * TEXTURE_WIDTH) * 16, [0, row + y], extent))
    }
}

/// A dispatch in the making. Names that the kernel does not have, and bindings or fields left out, are bugs of the op:
/// they panic when the graph is compiled, never at a later step.
pub(crate) struct Builder<'a> {
    lowering: &'a mut Lowering,
    dispatch: Dispatch,
    fields_set: usize,
}

impl<'a> Builder<'a> {
    /// A dispatch of `kernel` in the layer that is being lowered.
    pub fn new(lowering: &'a mut Lowering, kernel: &Kernel) -> Self {
        let uniform = kernel.bindings.iter().find_map(|b| match b.kind {
            BindingKind::Uniform { size, .. } => Some(vec![0; size as usize]),
            _ => None,
        });
        let dispatch = Dispatch {
            node: lowering.node_number(),
            label: format!("{} {}", lowering.layer(), kernel.name),
            kernel: kernel.clone(),
            overrides: Vec::new(),
            windows: Vec::new(),
            copies: Vec::new(),
            uniform: uniform.unwrap_or_default(),
            groups: [0; 3],
        };
        Builder { lowering, dispatch, fields_set: 0 }
    }

    /// Binds `window` to the kernel's variable `name`.
    pub fn bind(mut self, name: &str, window: Window) -> Self {
        let kernel = &self.dispatch.kernel;
        let binding = kernel.bindings.iter().find(|b| b.name == name);
        let binding = binding.unwrap_or_else(|| panic!("{} has no binding {name}", kernel.name));
        self.dispatch.windows.push((binding.index, window));
        self
    }

    /// Copies `elements` of `value`, whole vec4s, into a texture from this row on before the dispatch runs.
    pub fn copy(mut self, texture: Window, row: usize, value: &ValueRef, elements: Range<usize>) -> Self {
        let Memory::Texels(to) = texture.memory else { panic!("{}: a copy goes to a texture", value.name) };
        let (offset, texels) = (elements.start as u64 * 4, elements.len() / 4);
        let room = texture.size / 16 - row as u64 * u64::from(TEXTURE_WIDTH);
        assert!(
            offset % 16 == 0 && elements.len().is_multiple_of(4) && texels as u64 <= room,
            "{}: {elements:?}",
            value.name
        );
        let copy = TexelCopy { from: value.memory, offset, texels: texels as u32, to, row: row as u32 };
        self.dispatch.copies.push(copy);
        self
    }

    /// Sets the member `name` of the kernel's uniform struct.
    pub fn set<T: UniformValue>(mut self, name: &str, value: T) -> Self {
        let kernel = &self.dispatch.kernel;
        let mut fields = kernel.bindings.iter().filter_map(|b| match b.kind {
            BindingKind::Uniform { fields, .. } => Some(fields),
            _ => None,
        });
        let field = fields.next().and_then(|fields| fields.iter().find(|f| f.name == name));
        let field = field.unwrap_or_else(|| panic!("{} has no uniform field {name}", kernel.name));
        let bytes = bytemuck::bytes_of(&value);
        assert_eq!(bytes.len(), field.size as usize, "{} {name}", kernel.name);
        self.dispatch.uniform[field.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        self.fields_set += 1;
        self
    }

    /// Gives the pipeline constant `name` a value.
    pub fn constant(mut self, name: &str, value: impl Into<f64>) -> Self {
        let kernel = &self.dispatch.kernel;
        let known = kernel.overrides.iter().find(|&&o| o == name);
        let known = known.unwrap_or_else(|| panic!("{} has no constant {name}", kernel.name));
        self.dispatch.overrides.push((known, value.into()));
        self
    }

    /// Runs at least `threads` invocations in a grid of one or two dimensions (see `shaders/grid.wgsl`).
    pub fn threads(self, threads: usize) -> Result<()> {
        let groups = threads.div_ceil(self.dispatch.kernel.invocations());
        self.groups(groups)
    }

    /// Runs at least `groups` workgroups in a grid of one or two dimensions (see `shaders/grid.wgsl`).
    pub fn groups(self, groups: usize) -> Result<()> {
        let y = groups.div_ceil(self.lowering.capability.grid_side).max(1);
        self.grid([groups.div_ceil(y), y, 1])
    }

    /// Runs exactly these workgroups.
    ///
    /// # Errors
    /// When a dimension is beyond what every device can do.
    pub fn grid(self, groups: [usize; 3]) -> Result<()> {
        let kernel = &self.dispatch.kernel;
        for binding in kernel.bindings {
            match binding.kind {
                BindingKind::Uniform { fields, .. } => {
                    assert_eq!(self.fields_set, fields.len(), "{}: uniform fields left out", kernel.name)
                }
                _ => {
                    let bound = self.dispatch.windows.iter().filter(|(index, _)| *index == binding.index).count();
                    assert_eq!(bound, 1, "{}: {} must be bound once", kernel.name, binding.name);
                }
            }
        }
        if groups.iter().any(|&n| n > MAX_GROUPS) {
            return Err(Error::device(format!(
                "{}: needs {groups:?} workgroups, a device runs at most {MAX_GROUPS} along a dimension; lower --batch-size",
                self.dispatch.label
            )));
        }
        if groups.iter().all(|&n| n > 0) {
            let mut dispatch = self.dispatch;
            dispatch.groups = groups.map(|n| n as u32);
            self.lowering.dispatches.push(dispatch);
        }
        Ok(())
    }
}

/// What a uniform field can be set to.
pub(crate) trait UniformValue: bytemuck::NoUninit {}
impl UniformValue for u32 {}
impl UniformValue for i32 {}
impl UniformValue for f32 {}
impl UniformValue for [u32; 2] {}
impl UniformValue for [u32; 3] {}
impl UniformValue for [i32; 2] {}
impl UniformValue for [i32; 3] {}
impl UniformValue for [u32; 4] {}
impl UniformValue for [f32; 4] {}
