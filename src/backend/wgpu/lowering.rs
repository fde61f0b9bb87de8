//! Lowering: from an op to dispatches, as plain data that needs no device (see [`super::dispatch`]). An op names a kernel, binds windows of its
//! values to the kernel's variables and sets uniform fields, all by the names that the shader gives them.
//!
//! A value is one buffer, but a binding may be smaller than a value (128 MiB in browsers and on llvmpipe; fc6's weight has
//! 151 MB). So kernels see a [`Window`]: a range of the buffer from an aligned offset, and the place of the first wanted
//! element in it. [`Lowering::flat`] and [`Lowering::rows`] cut the work into pieces whose windows fit.

use std::ops::Range;
use std::sync::Arc;

use super::dispatch::{Builder, Dispatch};
use super::matrices::Matrices;
use super::shaders::Kernel;
use crate::backend::{Choices, Precision};
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::ops::Operator;
use crate::tensor::TensorType;

/// Alignment of every window's offset, bytes: the largest that WebGPU allows a device to ask for.
pub(crate) const ALIGNMENT: u64 = 256;

/// Texels in a row of [`Memory::Texels`], as in `shaders/texel.wgsl`.
pub(crate) const TEXTURE_WIDTH: u32 = 4096;

/// Texels of a texture, at most: 8192 rows, which every device has.
pub(crate) const MAX_TEXELS: usize = 8192 * TEXTURE_WIDTH as usize;

/// Largest extent of a dispatch in workgroups: WebGPU's default limit.
pub(crate) const MAX_GROUPS: usize = 65_535;

/// Buffers, besides the uniform, that kernels bind at most; where a device binds fewer than one needs, others take its place. Every device
/// binds 8; Metal 31 of all kinds, of which wgpu leaves 28.
pub(crate) const STORAGE_BUFFERS: usize = 25;

/// Iterations of an invocation's loops, all together, at most: some drivers end them silently after 65,535 by their own count.
pub(crate) const MAX_ITERATIONS: usize = 60_000;

/// The buffer behind a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Memory {
    /// An input's, parameter's or state's own.
    Source(ValueId),
    /// A slot of the plan.
    Slot(usize),
    /// Room that an op needs between its own dispatches; the next node uses it again.
    Scratch(usize),
    /// A texture of such use, of four f32 in a texel, [`TEXTURE_WIDTH`] texels in a row.
    Texels(usize),
}

/// A value as an op sees it while it is lowered.
#[derive(Clone, Debug)]
pub(crate) struct ValueRef {
    /// Where it lives.
    pub memory: Memory,
    /// Shape and element type.
    pub ty: TensorType,
    /// For messages.
    pub name: String,
}

impl ValueRef {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.ty.shape.elements()
    }
}

/// A range of a buffer that one binding covers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Window {
    /// The buffer.
    pub memory: Memory,
    /// Bytes from the buffer's start, a multiple of [`ALIGNMENT`].
    pub offset: u64,
    /// Bytes, a multiple of 16: the last vec4 may be read whole.
    pub size: u64,
    /// The first wanted element, counted from the window's start. A multiple of 4 where the value's row is one.
    pub first: u32,
}

impl Window {
    /// The same window with its first wanted element further on.
    pub fn skip(self, elements: usize) -> Self {
        Window { first: self.first + elements as u32, ..self }
    }
}

/// What a device can do, as far as it changes the choice of kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capability {
    /// Largest window, bytes; a multiple of [`ALIGNMENT`].
    pub max_window: u64,
    /// Workgroups in a row of a grid that [`Builder::groups`] folds: as many as a device can do, fewer in tests.
    pub grid_side: usize,
    /// Buffers that a kernel may bind, besides the uniform.
    pub storage_buffers: usize,
    /// Whether it is a GPU interface run by the processor, where barriers and scattered loads are dear.
    pub software: bool,
    /// Invocations of a subgroup where the device has subgroups, and all of one size.
    pub subgroup: Option<u32>,
    /// What matrices its subgroups multiply at once.
    pub matrices: Option<Matrices>,
    /// What products multiply.
    pub precision: Precision,
    /// Which of several kernels an op runs where [`Choices`] say nothing: 0, the default, but in tests.
    pub candidate: usize,
}

impl Capability {
    /// A GPU that binds so many bytes at once, and has nothing that WebGPU leaves open.
    pub const fn gpu(max_window: u64) -> Self {
        let (grid_side, precision) = (MAX_GROUPS, Precision::F32);
        let storage_buffers = 8;
        Capability {
            max_window,
            grid_side,
            storage_buffers,
            software: false,
            subgroup: None,
            matrices: None,
            precision,
            candidate: 0,
        }
    }

    /// Whether products run on texels, see `shaders/texel_product.wgsl`.
    pub fn texels(&self) -> bool {
        self.software && self.subgroup == Some(8) && self.precision == Precision::F32
    }
}

/// Collects the dispatches of a graph.
#[derive(Debug)]
pub(crate) struct Lowering {
    /// The device's limits.
    pub capability: Capability,
    /// In order.
    pub dispatches: Vec<Dispatch>,
    /// Bytes of each scratch buffer.
    pub scratch: Vec<u64>,
    /// Rows of each texture.
    pub textures: Vec<u32>,
    /// What is known of the nodes.
    choices: Arc<Choices>,
    /// The layer being lowered.
    layer: String,
    /// Of its node, see [`crate::graph::Graph::signature`].
    signature: String,
    /// Names of the kernels that it chose between.
    candidates: Vec<String>,
    /// Nodes begun.
    nodes: usize,
    /// Scratch buffers that it uses already.
    scratch_used: usize,
    /// Textures that it uses already.
    textures_used: usize,
}

impl Lowering {
    /// Nothing lowered yet.
    pub fn new(capability: Capability, choices: Arc<Choices>) -> Self {
        Lowering {
            capability,
            dispatches: Vec::new(),
            scratch: Vec::new(),
            textures: Vec::new(),
            choices,
            layer: String::new(),
            signature: String::new(),
            candidates: Vec::new(),
            nodes: 0,
            scratch_used: 0,
            textures_used: 0,
        }
    }

    /// Begins a node: its scratch memory may be that of the nodes before.
    pub fn node(&mut self, layer: &str, signature: String) {
        self.layer = layer.into();
        self.signature = signature;
        self.candidates.clear();
        self.nodes += 1;
        self.scratch_used = 0;
        self.textures_used = 0;
    }

    /// The layer being lowered.
    pub fn layer(&self) -> &str {
        &self.layer
    }

    /// Number of the node being lowered.
    pub fn node_number(&self) -> usize {
        self.nodes.saturating_sub(1)
    }

    /// One of several kernels that do the same, each with its name: what was found to be the fastest for this node, else the
    /// first.
    pub fn choose<T: Copy>(&mut self, candidates: &[(&str, T)]) -> T {
        self.candidates = candidates.iter().map(|(name, _)| name.to_string()).collect();
        let found = self.choices.get(&self.signature);
        let known = found.and_then(|found| candidates.iter().find(|(name, _)| name == found));
        known.unwrap_or(&candidates[self.capability.candidate % candidates.len()]).1
    }

    /// Names of the kernels that the node chose between; none where there is one.
    pub fn candidates(&self) -> &[String] {
        &self.candidates
    }

    /// Scratch memory with room for `elements` f32, until the node's end.
    pub fn scratch(&mut self, elements: usize) -> ValueRef {
        let index = self.scratch_used;
        self.scratch_used += 1;
        if self.scratch.len() == index {
            self.scratch.push(0);
        }
        self.scratch[index] = self.scratch[index].max(padded(elements as u64 * 4));
        ValueRef {
            memory: Memory::Scratch(index),
            ty: TensorType::f32([elements]),
            name: format!("scratch of {}", self.layer),
        }
    }

    /// A texture with room for `texels` of four f32, at most [`MAX_TEXELS`], until the node's end.
    pub fn texels(&mut self, texels: usize) -> Window {
        let index = self.textures_used;
        self.textures_used += 1;
        if self.textures.len() == index {
            self.textures.push(1);
        }
        // llvmpipe compiles shaders anew for heights that are not powers of two.
        let rows = texels.div_ceil(TEXTURE_WIDTH as usize).next_power_of_two() as u32;
        self.textures[index] = self.textures[index].max(rows);
        Window { memory: Memory::Texels(index), offset: 0, size: texels as u64 * 16, first: 0 }
    }

    /// Ends the use of the node's textures so far: the next ones may be the same.
    pub fn reuse_textures(&mut self) {
        self.textures_used = 0;
    }

    /// The window on `elements` of `value`.
    ///
    /// # Errors
    /// When it is larger than a binding may be.
    pub fn window(&self, value: &ValueRef, elements: Range<usize>) -> Result<Window> {
        let size = value.ty.dtype.size() as u64;
        let start = elements.start as u64 * size;
        let offset = start / ALIGNMENT * ALIGNMENT;
        let window = Window {
            memory: value.memory,
            offset,
            size: padded(elements.end as u64 * size - offset),
            first: ((start - offset) / size) as u32,
        };
        if window.size > self.capability.max_window {
            return Err(Error::device(format!(
                "{}: {} needs {} bytes of {} at once, but this device binds at most {}; lower --batch-size or --image-size",
                self.layer, value.name, window.size, value.ty.shape, self.capability.max_window
            )));
        }
        Ok(window)
    }

    /// The window on all of `value`; the error of [`Lowering::window`].
    pub fn whole(&self, value: &ValueRef) -> Result<Window> {
        self.window(value, 0..value.elements())
    }

    /// Cuts `0..elements` of 4-byte values into ranges whose windows fit and begin at their first element
    /// (`first` is 0), for ops that work element by element.
    pub fn flat(&self, elements: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let step = (self.capability.max_window / 4) as usize;
        (0..elements).step_by(step).map(move |start| start..elements.min(start + step))
    }

    /// Refuses an op whose invocations would run more than [`MAX_ITERATIONS`], with what to do instead.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn check_iterations(&self, op: &dyn Operator, iterations: usize, hint: &str) -> Result<()> {
        if iterations <= MAX_ITERATIONS {
            return Ok(());
        }
        let by = "the wgpu backend".into();
        let hint = format!("{}: {hint}, or use --adapter cpu", self.layer);
        Err(Error::Unsupported { op: op.name().into(), by, hint })
    }

    /// Cuts `0..rows` into ranges whose windows fit for each of `values`, all of which have that many rows.
    ///
    /// # Errors
    /// When one row is larger than a window.
    pub fn rows(&self, rows: usize, values: &[&ValueRef]) -> Result<Vec<Range<usize>>> {
        let max = self.capability.max_window;
        let mut step = rows;
        for value in values {
            debug_assert_eq!(value.elements() % rows, 0, "{}: {} rows of {}", self.layer, rows, value.ty.shape);
            let row = (value.elements() / rows * value.ty.dtype.size()) as u64;
            // A range that does not start at an aligned place begins up to ALIGNMENT bytes before.
            let fits = if row * rows as u64 <= max { rows } else { (max.saturating_sub(ALIGNMENT) / row) as usize };
            if fits == 0 {
                return Err(Error::device(format!(
                    "{}: one of {rows} parts of {} {} has {row} bytes, but this device binds at most {max}; \
                     lower --image-size",
                    self.layer, value.name, value.ty.shape
                )));
            }
            step = step.min(fits);
        }
        Ok((0..rows).step_by(step.max(1)).map(|start| start..rows.min(start + step)).collect())
    }

    /// The window on rows of a value that has `rows` rows in all, see [`Lowering::rows`].
    pub fn row_window(&self, value: &ValueRef, rows: usize, range: &Range<usize>) -> Result<Window> {
        let row = value.elements() / rows;
        self.window(value, range.start * row..range.end * row)
    }

    /// Dispatches an element-wise kernel over `values`, which have as many f32 each: binds them, sets the uniform `count`,
    /// and runs one invocation for each vec4. `more` adds what the kernel needs besides; it gets the elements' range.
    pub fn each(
        &mut self,
        kernel: &Kernel,
        values: &[(&str, &ValueRef)],
        more: impl for<'b> Fn(Builder<'b>, &Range<usize>) -> Builder<'b>,
    ) -> Result<()> {
        for range in self.flat(values[0].1.elements()) {
            let windows =
                values.iter().map(|(_, value)| self.window(value, range.clone())).collect::<Result<Vec<_>>>()?;
            let mut dispatch = self.dispatch(kernel).set("count", range.len() as u32);
            for ((name, _), window) in values.iter().zip(windows) {
                dispatch = dispatch.bind(name, window);
            }
            more(dispatch, &range).threads(range.len().div_ceil(4))?;
        }
        Ok(())
    }

    /// Begins a dispatch of `kernel`.
    pub fn dispatch(&mut self, kernel: &Kernel) -> Builder<'_> {
        Builder::new(self, kernel)
    }
}

/// Bytes rounded up to whole vec4s.
pub(crate) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(16).max(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowering(max_window: u64) -> Lowering {
        Lowering::new(Capability::gpu(max_window), Arc::default())
    }

    fn value(rows: usize, columns: usize) -> ValueRef {
        ValueRef { memory: Memory::Slot(0), ty: TensorType::f32([rows, columns]), name: "x".into() }
    }

    /// Windows start aligned, hold their range, stay below the limit, and the ranges cover everything once.
    #[test]
    fn windows_cover_a_value() {
        for (rows, columns, limit) in [(7, 33, 512), (100, 63, 1024), (5, 1, 256), (3, 200, 1280)] {
            let (cx, x) = (lowering(limit), value(rows, columns));
            let mut next = 0;
            for range in cx.rows(rows, &[&x]).unwrap() {
                let w = cx.row_window(&x, rows, &range).unwrap();
                assert_eq!(range.start, next);
                assert_eq!(w.offset % ALIGNMENT, 0);
                assert_eq!(w.offset + w.first as u64 * 4, (range.start * columns * 4) as u64);
                assert!(w.offset + w.size >= (range.end * columns * 4) as u64 && w.size <= limit);
                next = range.end;
            }
            assert_eq!(next, rows);
        }
        let flat: Vec<_> = lowering(256).flat(130).collect();
        assert_eq!(flat, [0..64, 64..128, 128..130]);
    }

    #[test]
    fn what_was_found_comes_first_and_unknown_names_do_not_count() {
        let candidates = [("wide", 1), ("narrow", 2)];
        let found = [("a", "narrow"), ("b", "of another version")].map(|(s, name)| (s.into(), name.into()));
        let mut cx = Lowering::new(lowering(256).capability, Arc::new(Choices::from(found)));
        let mut choose = |signature: &str, candidate| {
            cx.node("layer", signature.into());
            cx.capability.candidate = candidate;
            cx.choose(&candidates)
        };
        assert_eq!(["a", "b", "c"].map(|signature| choose(signature, 0)), [2, 1, 1]);
        assert_eq!(["a", "b", "c"].map(|signature| choose(signature, 3)), [2, 2, 2]);
        assert_eq!(cx.candidates(), ["wide", "narrow"]);
    }

    #[test]
    fn a_row_larger_than_a_window_is_an_error() {
        let message = lowering(256).rows(2, &[&value(2, 100)]).unwrap_err().to_string();
        assert!(message.contains("400 bytes") && message.contains("256"), "{message}");
    }
}
