//! The shaders as build.rs found them: one [`Kernel`] for each entry point, in a module named like its file
//! (`shaders::lrn::FORWARD` is `fn forward` of `shaders/lrn.wgsl`).

use std::borrow::Cow;

/// An entry point with all that the host needs to know to dispatch it.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// `file.entry`, and for text made at run time what it was made for. Two kernels of one name have the same source.
    pub name: Cow<'static, str>,
    /// WGSL text.
    pub source: Cow<'static, str>,
    /// Name of the function.
    pub entry: &'static str,
    /// Invocations of a workgroup.
    pub workgroup: [u32; 3],
    /// What the entry point uses, all in group 0.
    pub bindings: &'static [Binding],
    /// Names of the pipeline constants that the file declares.
    pub overrides: &'static [&'static str],
}

impl Kernel {
    /// Invocations of a workgroup, all dimensions.
    pub fn invocations(&self) -> usize {
        self.workgroup.iter().map(|&n| n as usize).product()
    }
}

/// A buffer or texture that a kernel uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    /// `@binding(index)`.
    pub index: u32,
    /// The variable's name.
    pub name: &'static str,
    /// How it is used.
    pub kind: BindingKind,
}

/// How a kernel uses a buffer or texture.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BindingKind {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    ReadWrite,
    /// `texture_storage_2d<rgba32float, read>` of [`super::lowering::Memory::Texels`].
    Texels,
    /// `texture_storage_2d<rgba32float, write>` of [`super::lowering::Memory::Texels`].
    WriteTexels,
    /// `var<uniform>` of a struct.
    Uniform {
        /// Bytes of the struct.
        size: u32,
        /// Its members.
        fields: &'static [Field],
    },
}

/// A member of a uniform struct.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// Name.
    pub name: &'static str,
    /// Bytes from the start of the struct.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

include!(concat!(env!("OUT_DIR"), "/shaders.rs"));
