//! Buffers, the parameters that all programs of a device share, and what an op sees of them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::tensor::{Tensor, TensorType};

/// A cache line: what buffers are made of, so that no vector load straddles two lines.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Zeroed memory for elements of any type. Default is no memory at all.
#[derive(Default)]
pub(super) struct Buffer(Vec<Line>);

impl Buffer {
    /// Room for `bytes`, or [`Error::Device`] when the system has not that much.
    pub fn new(bytes: usize) -> Result<Self> {
        let lines = bytes.div_ceil(size_of::<Line>());
        let mut memory = Vec::new();
        memory.try_reserve_exact(lines).map_err(|_| {
            Error::device(format!("the CPU backend cannot allocate {bytes} bytes; try a smaller --batch-size"))
        })?;
        in_large_pages(&mut memory);
        memory.resize(lines, Line::zeroed());
        Ok(Buffer(memory))
    }

    /// The first `n` elements.
    pub fn elements<T: Pod>(&self, n: usize) -> &[T] {
        &bytemuck::cast_slice(&self.0)[..n]
    }

    /// The first `n` elements, to be written.
    pub fn elements_mut<T: Pod>(&mut self, n: usize) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.0)[..n]
    }

    /// Copies a tensor of type `ty` out.
    pub fn read(&self, ty: &TensorType) -> Result<Tensor> {
        Tensor::from_bytes(ty, self.elements(ty.bytes())).map_err(Error::Device)
    }

    /// Copies a tensor in; the buffer was made for its type.
    pub fn write(&mut self, tensor: &Tensor) {
        self.elements_mut(tensor.bytes().len()).copy_from_slice(tensor.bytes());
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.0[..])
    }
}

/// Asks the system for pages of megabytes under memory that was not touched yet. Finding a page of 4 KiB takes a processor, and more
/// so a virtual one, longer than reading it.
fn in_large_pages(memory: &mut Vec<Line>) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 2 << 20;
        let room = memory.spare_capacity_mut();
        let (start, bytes) = (room.as_mut_ptr() as usize, size_of_val(room));
        let (first, end) = (start.next_multiple_of(PAGE), (start + bytes) / PAGE * PAGE);
        if first < end {
            // SAFETY: the range lies in this vector's own memory, and the advice changes no byte of it. Where it is not taken, pages
            // stay as they are.
            unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE) };
        }
    }
    let _ = memory; // elsewhere
}

/// Parameters and state of a device, by name.
#[derive(Default)]
pub(super) struct Store {
    places: HashMap<String, usize>,
    types: Vec<TensorType>,
    /// At the index that [`Store::find`] gives.
    pub buffers: Vec<Buffer>,
    /// Of each buffer, how often it was written.
    pub versions: Vec<u64>,
}

impl Store {
    /// Creates or overwrites `name`.
    pub fn set(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let ty = tensor.ty();
        let place = match self.places.get(name) {
            Some(&place) if self.types[place] != ty => {
                let old = &self.types[place];
                return Err(Error::shape(
                    name,
                    format!(
                        "is {:?} {} on the device, cannot become {:?} {}",
                        old.dtype, old.shape, ty.dtype, ty.shape
                    ),
                ));
            }
            Some(&place) => place,
            None => {
                self.buffers.push(Buffer::new(ty.bytes())?);
                self.types.push(ty);
                self.versions.push(0);
                self.places.insert(name.into(), self.buffers.len() - 1);
                self.buffers.len() - 1
            }
        };
        self.buffers[place].write(tensor);
        self.versions[place] += 1;
        Ok(())
    }

    /// Copies `name` out.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let place = self.place(name)?;
        self.buffers[place].read(&self.types[place])
    }

    /// The index of `name`'s buffer, when its type is `ty`.
    pub fn find(&self, name: &str, ty: &TensorType) -> Result<usize> {
        let place = self.place(name)?;
        let found = &self.types[place];
        if found != ty {
            return Err(Error::shape(
                name,
                format!(
                    "the graph needs {:?} {}, the device holds {:?} {}",
                    ty.dtype, ty.shape, found.dtype, found.shape
                ),
            ));
        }
        Ok(place)
    }

    fn place(&self, name: &str) -> Result<usize> {
        let message = || Error::device(format!("{name} was not set on the device before it was needed"));
        self.places.get(name).copied().ok_or_else(message)
    }
}

/// Locks the store. A panic elsewhere leaves it usable: buffers are plain numbers.
pub(super) fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an op keeps from step to step.
pub(crate) struct Kept<'a> {
    /// As much as [`super::CpuOp::kept`] asked for.
    pub memory: &'a mut [f32],
    /// Whether it holds what was made of this very weight. The op sets it when it does.
    pub ready: &'a mut bool,
}

/// A node's inputs and outputs as its op sees them. Slices live as long as the run, so inputs, outputs and scratch can be
/// held together; each output and the scratch memory can be taken once.
pub(crate) struct Io<'a> {
    pub(super) inputs: Vec<(&'a TensorType, &'a Buffer)>,
    pub(super) outputs: Vec<(&'a TensorType, &'a mut [f32])>,
    pub(super) scratch: &'a mut [f32],
    pub(super) kept: Option<Kept<'a>>,
    pub(super) threads: usize,
}

impl<'a> Io<'a> {
    /// How many inputs there are.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// How many outputs there are.
    pub fn outputs(&self) -> usize {
        self.outputs.len()
    }

    /// Extents of input `i`.
    pub fn shape(&self, i: usize) -> &'a [usize] {
        &self.inputs[i].0.shape
    }

    /// Extents of output `i`.
    pub fn output_shape(&self, i: usize) -> &'a [usize] {
        &self.outputs[i].0.shape
    }

    /// Elements of the f32 input `i`. An input that is updated in place is reached as the output only.
    pub fn f32(&self, i: usize) -> &'a [f32] {
        self.elements(i)
    }

    /// Elements of the u32 input `i`.
    pub fn u32(&self, i: usize) -> &'a [u32] {
        self.elements(i)
    }

    /// Elements of the u8 input `i`.
    pub fn u8(&self, i: usize) -> &'a [u8] {
        self.elements(i)
    }

    fn elements<T: Pod>(&self, i: usize) -> &'a [T] {
        let (ty, buffer) = self.inputs[i];
        debug_assert_eq!(ty.dtype.size(), size_of::<T>());
        buffer.elements(ty.shape.elements())
    }

    /// Takes output `i`.
    pub fn output(&mut self, i: usize) -> &'a mut [f32] {
        std::mem::take(&mut self.outputs[i].1)
    }

    /// Takes the scratch memory: as much as [`super::CpuOp::scratch`] asked for. Holds old data.
    pub fn scratch(&mut self) -> &'a mut [f32] {
        std::mem::take(&mut self.scratch)
    }

    /// Takes what is kept; `None` where the weight changes with each step.
    pub fn kept(&mut self) -> Option<Kept<'a>> {
        self.kept.take()
    }

    /// Threads of the pool.
    pub fn threads(&self) -> usize {
        self.threads
    }
}
