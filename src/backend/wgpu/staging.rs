//! Buffers that host and device both reach: a step's inputs on their way there, its outputs on their way back.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use super::device::Shared;
use super::lowering::padded;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::tensor::TensorType;

/// Set once a buffer is mapped, or mapping it failed.
pub(super) type Mapped = Arc<OnceLock<Result<(), wgpu::BufferAsyncError>>>;

/// An input of a program, or what a stage receives.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub ty: TensorType,
    pub buffer: wgpu::Buffer,
}

/// The inputs of a program on their way to the device: those of a step are copied into one mapped buffer, which is used again when the
/// step is done. Not the pictures' decoders but the writer of the step fills it: what is mapped may be slow to read, and kept pictures
/// are read to be checked.
pub(super) struct Uploads {
    places: HashMap<ValueId, Place>,
    /// Of a buffer.
    bytes: u64,
    /// Mapped ones.
    idle: Vec<wgpu::Buffer>,
    /// The one of the next step, mapped, and what it holds so far.
    next: Option<(wgpu::Buffer, BTreeSet<ValueId>)>,
}

/// Where an input lies in such a buffer.
struct Place {
    offset: u64,
    /// Whole words.
    bytes: u64,
    /// What it is copied to.
    to: wgpu::Buffer,
}

/// An upload whose copies were submitted.
pub(super) struct Sent {
    buffer: wgpu::Buffer,
    mapped: Mapped,
}

impl Uploads {
    pub fn new(inputs: &HashMap<ValueId, Input>) -> Uploads {
        let mut ids: Vec<ValueId> = inputs.keys().copied().collect();
        ids.sort();
        let mut bytes = 0;
        let place = |id| {
            let Input { ty, buffer } = &inputs[&id];
            let size = ty.bytes() as u64;
            let place =
                Place { offset: bytes, bytes: size.next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT), to: buffer.clone() };
            bytes += padded(size);
            (id, place)
        };
        let places = ids.into_iter().map(place).collect();
        Uploads { places, bytes, idle: Vec::new(), next: None }
    }

    /// Has `input` hold `bytes` from the next step on. Returns the bytes of memory that this took.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn write(&mut self, shared: &Shared, input: ValueId, bytes: &[u8]) -> Result<u64> {
        let mut taken = 0;
        let (buffer, written) = match &mut self.next {
            Some(next) => next,
            next => {
                let buffer = match self.idle.pop() {
                    Some(buffer) => buffer,
                    None => {
                        taken = self.bytes;
                        upload_buffer(shared, self.bytes)?
                    }
                };
                next.insert((buffer, BTreeSet::new()))
            }
        };
        let &Place { offset, bytes: size, .. } = &self.places[&input];
        // Only u8 tensors can end between words; what is copied is words.
        let (words, rest) = bytes.split_at(bytes.len() / 4 * 4);
        let mut view = buffer.get_mapped_range_mut(offset..offset + size).map_err(unmapped)?;
        view.slice(..words.len()).copy_from_slice(words);
        if !rest.is_empty() {
            let mut word = [0; 4];
            word[..rest.len()].copy_from_slice(rest);
            view.slice(words.len()..).copy_from_slice(&word);
        }
        written.insert(input);
        Ok(taken)
    }

    /// Encodes the copies of what was written since the last time. After the submit, the buffer is to be [`Sent`].
    pub fn encode(&mut self, encoder: &mut wgpu::CommandEncoder) -> Option<wgpu::Buffer> {
        let (upload, written) = self.next.take()?;
        upload.unmap();
        for Place { offset, bytes, to } in written.iter().map(|input| &self.places[input]) {
            encoder.copy_buffer_to_buffer(&upload, *offset, to, 0, *bytes);
        }
        Some(upload)
    }

    /// Takes an upload back, whose step is done. One that the device still uses is given up.
    pub fn take_back(&mut self, sent: Option<Sent>) {
        self.idle.extend(sent.filter(|sent| matches!(sent.mapped.get(), Some(Ok(())))).map(|sent| sent.buffer));
    }
}

impl Sent {
    pub fn new(buffer: wgpu::Buffer) -> Sent {
        Sent { mapped: map(&buffer, wgpu::MapMode::Write), buffer }
    }
}

fn unmapped(error: wgpu::MapRangeError) -> Error {
    Error::device(format!("the memory of an upload cannot be reached: {error}"))
}

/// A mapped buffer that the host can write.
fn upload_buffer(shared: &Shared, bytes: u64) -> Result<wgpu::Buffer> {
    let buffer = shared.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("upload"),
        size: bytes,
        usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: true,
    });
    shared.check()?;
    Ok(buffer)
}

/// A buffer that the host can read.
pub(super) fn staging_buffer(shared: &Shared, bytes: u64) -> Result<wgpu::Buffer> {
    let buffer = shared.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("staging"),
        size: padded(bytes),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    shared.check()?;
    Ok(buffer)
}

/// Asks for a buffer to be mapped once the work before is done.
pub(super) fn map(staging: &wgpu::Buffer, mode: wgpu::MapMode) -> Mapped {
    let mapped = Mapped::default();
    let set = mapped.clone();
    staging.slice(..).map_async(mode, move |result| {
        set.get_or_init(|| result);
    });
    mapped
}

/// Whether a submission is done and its staging buffer mapped; with `wait`, waits until it is.
pub(super) fn finished(
    shared: &Shared,
    submission: &wgpu::SubmissionIndex,
    mapped: &Mapped,
    wait: bool,
) -> Result<bool> {
    let poll = match wait {
        true => wgpu::PollType::Wait { submission_index: Some(submission.clone()), timeout: None },
        false => wgpu::PollType::Poll,
    };
    let polled = shared.device.poll(poll);
    shared.check()?;
    polled.map_err(|e| Error::device(format!("waiting for the device: {e}")))?;
    match mapped.get() {
        Some(Ok(())) => Ok(true),
        Some(Err(e)) => Err(Error::device(format!("the device's results cannot be read: {e}"))),
        None if wait => Err(Error::device("the device finished a step without its results")),
        None => Ok(false),
    }
}
