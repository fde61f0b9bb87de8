//! What goes into a stage of a step (see [`crate::graph::Stage`]; in most programs there is one) and what comes out of it. Inputs land where
//! the step before does not look; what is sent to another GPU waits in memory of its own until that has fetched it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::device::Shared;
use super::driver::{Event, Memory, Pinned, Recorded};
use crate::backend::Parcel;
use crate::backend::wgpu::lowering::padded;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::tensor::{Tensor, TensorType};

pub(super) struct Stage {
    inputs: HashMap<ValueId, Place>,
    /// Of all inputs, as they lie in an [`Upload`].
    upload_bytes: u64,
    /// Uploads that no step in flight uses.
    idle: Vec<Upload>,
    /// The one of the next step.
    written: Option<Upload>,
    pub recorded: Option<Recorded>,
    /// What other devices need, then, of the last stage, the graph's outputs.
    outputs: Vec<Place>,
    /// How many of them are of the first kind.
    sent: usize,
    /// Of what is sent, and of all outputs.
    bytes: [u64; 2],
    /// Host memory for outputs that no step in flight uses.
    results: Vec<Pinned>,
    /// Of those with one owner, what they hold was fetched.
    outboxes: Vec<Arc<Outbox>>,
}

/// A value that comes in or goes out.
struct Place {
    ty: TensorType,
    /// Of the stage's own.
    address: u64,
    /// Among the others of its kind.
    offset: u64,
}

/// Inputs on their way.
pub(super) struct Upload {
    /// None before something of the host's is written.
    host: Option<Pinned>,
    landing: Memory,
    /// What comes from the host, and from other GPUs.
    arrived: [Event; 2],
    /// What was written so far, and whence it comes.
    written: BTreeMap<ValueId, Source>,
}

enum Source {
    /// The upload's own memory of the host.
    Host,
    Gpu(Arc<Sent>),
}

/// Outputs on their way to the host.
pub(super) struct Results {
    memory: Pinned,
    /// Number of the first one.
    first: usize,
}

/// What a stage sent in one step.
struct Outbox {
    memory: Memory,
    /// It is all there.
    ready: Event,
}

/// A value in an outbox, which stays as it is while this does.
struct Sent {
    outbox: Arc<Outbox>,
    offset: u64,
    ty: TensorType,
}

impl Stage {
    /// One that is given values at these addresses, and sends and keeps those.
    pub fn new(
        inputs: impl Iterator<Item = (ValueId, (TensorType, u64))>,
        sent: Vec<(TensorType, u64)>,
        kept: Vec<(TensorType, u64)>,
        recorded: Option<Recorded>,
    ) -> Stage {
        let (mut upload_bytes, mut output_bytes) = (0, 0);
        let place = |bytes: &mut u64, (ty, address): (TensorType, u64)| {
            let offset = *bytes;
            *bytes += padded(ty.bytes() as u64);
            Place { ty, address, offset }
        };
        let inputs = inputs.map(|(id, input)| (id, place(&mut upload_bytes, input))).collect();
        let count = sent.len();
        let outputs: Vec<Place> = sent.into_iter().chain(kept).map(|output| place(&mut output_bytes, output)).collect();
        let sent_bytes = outputs.get(count).map_or(output_bytes, |kept| kept.offset);
        Stage {
            inputs,
            upload_bytes,
            idle: Vec::new(),
            written: None,
            recorded,
            outputs,
            sent: count,
            bytes: [sent_bytes, output_bytes],
            results: Vec::new(),
            outboxes: Vec::new(),
        }
    }

    /// Sets an input for the next step. What is allocated is added to `used`.
    pub fn write(&mut self, shared: &Shared, input: ValueId, tensor: &Tensor, used: &mut u64) -> Result<()> {
        let Place { offset, .. } = *self.input(input, &tensor.ty())?;
        let bytes = self.upload_bytes as usize;
        let upload = self.upload(shared, used)?;
        let host = match &mut upload.host {
            Some(host) => host,
            none => none.insert(Pinned::new(&shared.context, bytes)?),
        };
        host.bytes_mut()[offset as usize..][..tensor.bytes().len()].copy_from_slice(tensor.bytes());
        upload.written.insert(input, Source::Host);
        Ok(())
    }

    /// [`Stage::write`] of what another GPU has.
    pub fn receive(&mut self, shared: &Shared, input: ValueId, parcel: &Parcel, used: &mut u64) -> Result<()> {
        let other = |_| Error::device("a GPU was sent what is not on a GPU");
        let sent = parcel.clone().downcast::<Sent>().map_err(other)?;
        self.input(input, &sent.ty)?;
        self.upload(shared, used)?.written.insert(input, Source::Gpu(sent));
        Ok(())
    }

    fn input(&self, input: ValueId, got: &TensorType) -> Result<&Place> {
        let Some(place) = self.inputs.get(&input) else {
            return Err(Error::input(format!("value {} is not an input of this program", input.0)));
        };
        if *got != place.ty {
            let ty = &place.ty;
            let message = format!("expected {:?} {}, got {:?} {}", ty.dtype, ty.shape, got.dtype, got.shape);
            return Err(Error::shape("input", message));
        }
        Ok(place)
    }

    fn upload(&mut self, shared: &Shared, used: &mut u64) -> Result<&mut Upload> {
        let upload = match self.written.take().or_else(|| self.idle.pop()) {
            Some(upload) => upload,
            None => {
                *used += self.upload_bytes;
                Upload {
                    host: None,
                    // Not filled: that would be work of another stream.
                    landing: Memory::new(&shared.context, self.upload_bytes)?,
                    arrived: [Event::new(&shared.context)?, Event::new(&shared.context)?],
                    written: BTreeMap::new(),
                }
            }
        };
        Ok(self.written.insert(upload))
    }

    /// Has the inputs that were written for the next step be where its kernels look.
    pub fn land(&mut self, shared: &Shared) -> Result<Option<Upload>> {
        let Shared { stream, uploads, fetches, .. } = shared;
        let Some(upload) = self.written.take() else { return Ok(None) };
        let written = || upload.written.iter().map(|(id, source)| (&self.inputs[id], source));
        for (Place { ty, offset, .. }, source) in written() {
            let to = upload.landing.address + offset;
            match source {
                Source::Host => {
                    let host = upload.host.as_ref().map_or(&[][..], Pinned::bytes);
                    uploads.upload(to, &host[*offset as usize..][..ty.bytes()])?;
                }
                Source::Gpu(sent) => {
                    let Sent { outbox, offset, ty } = &**sent;
                    fetches.after(&outbox.ready)?;
                    fetches.fetch(to, &outbox.memory, *offset, ty.bytes())?;
                }
            }
        }
        for (by, arrived) in [uploads, fetches].into_iter().zip(&upload.arrived) {
            let used = |source: &Source| matches!(source, Source::Host) == std::ptr::eq(by, uploads);
            if upload.written.values().any(used) {
                arrived.record(by)?;
                stream.after(arrived)?;
            }
        }
        for (Place { ty, offset, address }, _) in written() {
            stream.copy(*address, upload.landing.address + offset, ty.bytes())?;
        }
        Ok(Some(upload))
    }

    /// Takes back what a step that has run was given.
    pub fn give_back(&mut self, upload: Option<Upload>) {
        self.idle.extend(upload.map(|upload| Upload { written: BTreeMap::new(), ..upload }));
    }

    /// Puts what is sent where the next steps leave it alone.
    pub fn send(&mut self, shared: &Shared, used: &mut u64) -> Result<Vec<Parcel>> {
        let sent = &self.outputs[..self.sent];
        if sent.is_empty() {
            return Ok(Vec::new());
        }
        let outbox = match self.outboxes.iter_mut().position(|outbox| Arc::get_mut(outbox).is_some()) {
            Some(fetched) => self.outboxes[fetched].clone(),
            None => {
                *used += self.bytes[0];
                let memory = Memory::new(&shared.context, self.bytes[0])?;
                let outbox = Arc::new(Outbox { memory, ready: Event::new(&shared.context)? });
                self.outboxes.push(outbox.clone());
                outbox
            }
        };
        for Place { ty, address, offset } in sent {
            shared.stream.copy(outbox.memory.address + offset, *address, ty.bytes())?;
        }
        outbox.ready.record(&shared.stream)?;
        let parcel = |Place { ty, offset, .. }: &Place| -> Parcel {
            Arc::new(Sent { outbox: outbox.clone(), offset: *offset, ty: ty.clone() })
        };
        Ok(sent.iter().map(parcel).collect())
    }

    /// Has the outputs come to the host, with what is sent or without.
    pub fn download(&mut self, shared: &Shared, with_sent: bool) -> Result<Results> {
        let [sent_bytes, bytes] = self.bytes;
        let (first, start) = if with_sent { (0, 0) } else { (self.sent, sent_bytes) };
        let mut memory = match self.results.pop() {
            Some(memory) => memory,
            None => Pinned::new(&shared.context, (bytes - start) as usize)?,
        };
        for Place { ty, address, offset } in &self.outputs[first..] {
            let to = &mut memory.bytes_mut()[(offset - start) as usize..][..ty.bytes()];
            shared.stream.download(to, *address)?;
        }
        Ok(Results { memory, first })
    }

    /// The outputs of a step that has run, and takes back what it was given.
    pub fn take(&mut self, results: Results, upload: Option<Upload>) -> Result<Vec<Tensor>> {
        let Results { memory, first } = results;
        let outputs = &self.outputs[first..];
        let start = outputs.first().map_or(0, |output| output.offset);
        let read = |Place { ty, offset, .. }: &Place| {
            let bytes = &memory.bytes()[(offset - start) as usize..][..ty.bytes()];
            Tensor::from_bytes(ty, bytes).map_err(Error::device)
        };
        let tensors = outputs.iter().map(read).collect();
        self.results.push(memory);
        self.give_back(upload);
        tensors
    }
}
