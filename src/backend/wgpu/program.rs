//! A compiled graph: what it sends, runs and reads in a step, and the steps that are in flight.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::device::{GUARD, Shared, guard};
use super::lower::{lower, place};
use super::lowering::{Memory, padded};
use super::profile::profile;
use super::staging::{Input, Mapped, Sent, Uploads, finished, map, staging_buffer};
use super::step::{Buffers, Step, steps};
use crate::backend::variables::Variables;
use crate::backend::{Choices, NodeTime, Program, Ticket};
use crate::error::{Error, Result};
use crate::graph::plan::plan;
use crate::graph::{self, Graph, Role, ValueId};
use crate::tensor::{Tensor, TensorType};

/// A graph on a wgpu device.
pub(super) struct WgpuProgram {
    shared: Arc<Shared>,
    steps: Vec<Step>,
    /// Of the graph.
    nodes: usize,
    stages: Vec<StagePlan>,
    /// Number of the stage that comes next.
    next: usize,
    in_flight: BTreeMap<Ticket, InFlight>,
    next_ticket: u64,
    memory_bytes: u64,
}

/// Bytes of a buffer, and where they go in a staging buffer.
struct Copied {
    buffer: wgpu::Buffer,
    from: u64,
    to: u64,
    bytes: u64,
}

/// An output, and where its bytes come from and go.
struct Output {
    ty: TensorType,
    copied: Copied,
}

/// A stage of a step, see [`crate::graph::Stage`]; in most programs there is one.
struct StagePlan {
    /// Of the first one the graph's inputs, of each what it receives.
    inputs: HashMap<ValueId, Input>,
    uploads: Uploads,
    /// Numbers of its dispatches.
    steps: Range<usize>,
    outputs: Vec<Output>,
    /// Of poisoned buffers.
    guards: Vec<Guard>,
    staging_bytes: u64,
    /// Staging buffers that no step in flight uses.
    staging: Vec<wgpu::Buffer>,
}

/// A submitted stage.
struct InFlight {
    stage: usize,
    staging: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    mapped: Mapped,
    upload: Option<Sent>,
}

/// What must not change behind a poisoned buffer.
struct Guard {
    /// What the buffer holds.
    of: String,
    copied: Copied,
    words: Vec<u32>,
}

impl WgpuProgram {
    pub fn compile(
        shared: Arc<Shared>,
        variables: &Variables<wgpu::Buffer>,
        choices: &Arc<Choices>,
        graph: &Graph,
        outputs: &[ValueId],
    ) -> Result<Self> {
        let plan = plan(graph, outputs);
        let lowered = lower(shared.capability, choices, shared.max_buffer, graph, &plan)?;
        let mut memory = Buffers::default();
        let mut inputs = HashMap::new();
        for id in (0..graph.values.len()).map(ValueId) {
            let value = &graph[id];
            let buffer = match value.role {
                Role::Activation | Role::Received => continue,
                Role::Input => {
                    let buffer = memory.allocate(&shared, &value.name, value.ty.bytes() as u64)?;
                    inputs.insert(id, Input { ty: value.ty.clone(), buffer: buffer.clone() });
                    buffer
                }
                Role::Parameter | Role::State => variables.of(value)?.clone(),
            };
            memory.by_place.insert(Memory::Source(id), buffer);
        }
        for (index, &bytes) in plan.slots.iter().enumerate() {
            let buffer = memory.allocate(&shared, "an activation", bytes as u64)?;
            memory.by_place.insert(Memory::Slot(index), buffer);
        }
        for id in graph.with_role(Role::Received) {
            if let Some(buffer) = memory.by_place.get(&place(&plan, id)) {
                inputs.insert(id, Input { ty: graph[id].ty.clone(), buffer: buffer.clone() });
            }
        }
        for (index, &bytes) in lowered.scratch.iter().enumerate() {
            let buffer = memory.allocate(&shared, "scratch memory", bytes)?;
            memory.by_place.insert(Memory::Scratch(index), buffer);
        }
        for &rows in &lowered.textures {
            memory.add_texture(&shared, rows);
        }
        shared.check()?;
        let steps = steps(&shared, &mut memory, &lowered.dispatches)?;
        let held = |memory: &Memory| match memory {
            Memory::Source(id) => graph[*id].name.clone(),
            Memory::Slot(_) => {
                let values = (0..graph.values.len()).map(ValueId).filter(|id| place(&plan, *id) == *memory);
                values.map(|id| graph[id].name.as_str()).collect::<Vec<_>>().join(" or ")
            }
            Memory::Scratch(index) | Memory::Texels(index) => format!("scratch memory {index}"),
        };
        let all = graph.stages();
        let last = all.len() - 1;
        let stage = |(number, stage): (usize, &graph::Stage)| {
            let mut staging_bytes = 0;
            let mut copied = |buffer, from, bytes| {
                let to = staging_bytes;
                staging_bytes += bytes;
                Copied { buffer, from, to, bytes }
            };
            let read = stage.sent.iter().chain(outputs.iter().filter(|_| number == last));
            let read = read.map(|&id| {
                let ty = graph[id].ty.clone();
                let buffer = memory.by_place[&place(&plan, id)].clone();
                Output { copied: copied(buffer, 0, padded(ty.bytes() as u64)), ty }
            });
            let outputs = read.collect();
            let poisoned = memory.by_place.iter().filter(|_| shared.poison).map(|(memory, buffer)| Guard {
                of: held(memory),
                copied: copied(buffer.clone(), buffer.size() - GUARD, GUARD),
                words: guard(buffer),
            });
            let guards = poisoned.collect();
            let of_nodes = |before: usize| steps.iter().take_while(|step| step.node < before).count();
            let steps = of_nodes(stage.nodes.start)..of_nodes(stage.nodes.end);
            let own = |id: &ValueId| match graph[*id].role {
                Role::Received => stage.received.contains(id),
                _ => number == 0,
            };
            let inputs = inputs.iter().filter(|(id, _)| own(id)).map(|(id, variable)| (*id, variable.clone()));
            let inputs: HashMap<ValueId, Input> = inputs.collect();
            let uploads = Uploads::new(&inputs);
            StagePlan { inputs, uploads, steps, outputs, guards, staging_bytes, staging: Vec::new() }
        };
        let stages = all.iter().enumerate().map(stage).collect();
        shared.check()?;
        Ok(WgpuProgram {
            shared,
            steps,
            nodes: graph.nodes.len(),
            stages,
            next: 0,
            in_flight: BTreeMap::new(),
            next_ticket: 0,
            memory_bytes: memory.bytes,
        })
    }
}

impl Program for WgpuProgram {
    fn write(&mut self, input: ValueId, tensor: &Tensor) -> Result<()> {
        let StagePlan { inputs, uploads, .. } = &mut self.stages[self.next];
        let Some(Input { ty, .. }) = inputs.get(&input) else {
            return Err(Error::input(format!("value {} is not an input of this program", input.0)));
        };
        if tensor.ty() != *ty {
            let got = tensor.ty();
            let message = format!("expected {:?} {}, got {:?} {}", ty.dtype, ty.shape, got.dtype, got.shape);
            return Err(Error::shape("input", message));
        }
        self.memory_bytes += uploads.write(&self.shared, input, tensor.bytes())?;
        Ok(())
    }

    fn submit(&mut self) -> Result<Ticket> {
        self.shared.check()?;
        let number = self.next;
        self.next = (number + 1) % self.stages.len();
        let stage = &mut self.stages[number];
        let staging = match stage.staging.pop() {
            Some(buffer) => buffer,
            None => {
                self.memory_bytes += stage.staging_bytes;
                staging_buffer(&self.shared, stage.staging_bytes)?
            }
        };
        let mut encoder = self.shared.device.create_command_encoder(&Default::default());
        let upload = stage.uploads.encode(&mut encoder);
        Step::encode_all(&self.steps[stage.steps.clone()], &mut encoder);
        for Copied { buffer, from, to, bytes } in
            stage.outputs.iter().map(|output| &output.copied).chain(stage.guards.iter().map(|guard| &guard.copied))
        {
            encoder.copy_buffer_to_buffer(buffer, *from, &staging, *to, *bytes);
        }
        let submission = self.shared.queue.submit([encoder.finish()]);
        let mapped = map(&staging, wgpu::MapMode::Read);
        let upload = upload.map(Sent::new);
        self.shared.check()?;
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.in_flight.insert(ticket, InFlight { stage: number, staging, submission, mapped, upload });
        Ok(ticket)
    }

    fn outputs(&mut self, ticket: Ticket, wait: bool) -> Result<Option<Vec<Tensor>>> {
        let Some(step) = self.in_flight.get(&ticket) else {
            return Err(Error::input(format!("the outputs of step {} were taken already", ticket.0)));
        };
        if !finished(&self.shared, &step.submission, &step.mapped, wait)? {
            return Ok(None);
        }
        let stage = &mut self.stages[step.stage];
        let bytes = step.staging.slice(..).get_mapped_range().map_err(|e| Error::device(e.to_string()))?;
        let tensors = stage
            .outputs
            .iter()
            .map(|output| tensor(&output.ty, &bytes[output.copied.to as usize..]))
            .collect::<Result<Vec<_>>>()?;
        let broken = stage.guards.iter().find_map(|guard| {
            let found = &bytes[guard.copied.to as usize..][..guard.copied.bytes as usize];
            let words = bytemuck::cast_slice::<u32, u8>(&guard.words);
            let at = (0..words.len()).find(|&i| found[i] != words[i])?;
            Some(Error::device(format!("a kernel wrote {at} bytes past the end of {}", guard.of)))
        });
        drop(bytes);
        if let Some(step) = self.in_flight.remove(&ticket) {
            step.staging.unmap();
            stage.staging.push(step.staging);
            stage.uploads.take_back(step.upload);
        }
        broken.map_or(Ok(Some(tensors)), Err)
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    fn profile(&mut self) -> Result<Vec<NodeTime>> {
        let mut encoder = self.shared.device.create_command_encoder(&Default::default());
        let uploads = &mut self.stages[0].uploads;
        let upload = uploads.encode(&mut encoder);
        self.shared.queue.submit([encoder.finish()]);
        uploads.take_back(upload.map(Sent::new));
        profile(&self.shared, &self.steps, self.nodes)
    }
}

/// Reads a whole tensor back; waits for the device.
pub(super) fn read_buffer(shared: &Shared, buffer: &wgpu::Buffer, ty: &TensorType) -> Result<Tensor> {
    let bytes = padded(ty.bytes() as u64);
    let staging = staging_buffer(shared, bytes)?;
    let mut encoder = shared.device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, bytes);
    let submission = shared.queue.submit([encoder.finish()]);
    let mapped = map(&staging, wgpu::MapMode::Read);
    finished(shared, &submission, &mapped, true)?;
    let view = staging.slice(..).get_mapped_range().map_err(|e| Error::device(e.to_string()))?;
    tensor(ty, &view)
}

/// The tensor at the start of `bytes`.
fn tensor(ty: &TensorType, bytes: &[u8]) -> Result<Tensor> {
    Tensor::from_bytes(ty, &bytes[..ty.bytes()]).map_err(Error::device)
}
