//! A compiled graph on the CPU: every buffer allocated once, the nodes run in order.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rayon::ThreadPool;

use super::available_memory;
use super::memory::{Buffer, Io, Store, lock};
use crate::backend::{NodeTime, Program, Ticket};
use crate::error::{Error, Result};
use crate::graph::plan::{self, Place};
use crate::graph::{Graph, Role, ValueId};
use crate::tensor::Tensor;

/// Where a value's memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Location {
    /// One of the program's buffers: a slot of the plan, or an input.
    Own(usize),
    /// One of the device's: a parameter or state.
    Shared(usize),
}

/// See [`Program`].
pub(super) struct CpuProgram {
    graph: Graph,
    /// Per value of the graph.
    locations: Vec<Location>,
    own: Vec<Buffer>,
    scratch: Buffer,
    /// Of each node, in the last step.
    times: Vec<NodeTime>,
    store: Arc<Mutex<Store>>,
    pool: Arc<ThreadPool>,
    outputs: Vec<ValueId>,
    /// Outputs of the steps that nobody asked for yet.
    done: BTreeMap<Ticket, Vec<Tensor>>,
    steps: u64,
}

impl CpuProgram {
    /// Plans the memory and allocates it.
    pub fn new(
        graph: &Graph,
        outputs: &[ValueId],
        store: Arc<Mutex<Store>>,
        pool: Arc<ThreadPool>,
    ) -> Result<CpuProgram> {
        let plan = plan::plan(graph, outputs);
        // Bytes of the program's own buffers.
        let mut own = plan.slots.clone();
        // Sources first: views and in-place updates of one have its place.
        let mut sources = HashMap::new();
        for (index, value) in graph.values.iter().enumerate() {
            let location = match value.role {
                Role::Activation => continue,
                Role::Parameter | Role::State => Location::Shared(lock(&store).find(&value.name, &value.ty)?),
                Role::Input => {
                    own.push(value.ty.bytes());
                    Location::Own(own.len() - 1)
                }
            };
            sources.insert(ValueId(index), location);
        }
        let mut locations = Vec::with_capacity(graph.values.len());
        for (place, value) in plan.places.iter().zip(&graph.values) {
            locations.push(match place {
                Place::Source(source) => sources[source],
                Place::Slot(slot) => Location::Own(*slot),
                Place::Unused => {
                    own.push(value.ty.bytes());
                    Location::Own(own.len() - 1)
                }
            });
        }
        let threads = pool.current_num_threads();
        let mut scratch = 0;
        for node in &graph.nodes {
            let types = |values: &[ValueId]| values.iter().map(|v| &graph[*v].ty).collect::<Vec<_>>();
            scratch = scratch.max(node.op.cpu().scratch(&types(&node.inputs), &types(&node.outputs), threads));
            for (i, input) in node.inputs.iter().enumerate() {
                for (o, output) in node.outputs.iter().enumerate() {
                    let shared = locations[input.0] == locations[output.0];
                    debug_assert!(!shared || node.op.aliases().contains(&(o, i)), "{node:?}: input {i}, output {o}");
                }
            }
        }
        let scratch = scratch * size_of::<f32>();
        check_memory(own.iter().sum::<usize>() + scratch)?;
        Ok(CpuProgram {
            graph: graph.clone(),
            locations,
            own: own.into_iter().map(Buffer::new).collect::<Result<_>>()?,
            scratch: Buffer::new(scratch)?,
            times: vec![NodeTime::default(); graph.nodes.len()],
            store,
            pool,
            outputs: outputs.to_vec(),
            done: BTreeMap::new(),
            steps: 0,
        })
    }
}

/// Whether so many bytes are to be had: a system that promises memory it has not got kills the process later.
fn check_memory(bytes: usize) -> Result<()> {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    match available_memory() {
        Some(available) if bytes as u64 > available => Err(Error::device(format!(
            "a step needs {:.1} GiB of memory, and {:.1} GiB are free; try a smaller --batch-size or --image-size",
            gib(bytes as u64),
            gib(available)
        ))),
        _ => Ok(()),
    }
}

impl Program for CpuProgram {
    fn write(&mut self, input: ValueId, tensor: &Tensor) -> Result<()> {
        let value = &self.graph[input];
        let (Role::Input, Location::Own(place)) = (value.role, self.locations[input.0]) else {
            return Err(Error::shape(&value.name, "is not an input of the graph"));
        };
        if tensor.ty() != value.ty {
            let (want, got) = (&value.ty, tensor.ty());
            return Err(Error::shape(
                &value.name,
                format!("expected {:?} {}, got {:?} {}", want.dtype, want.shape, got.dtype, got.shape),
            ));
        }
        self.own[place].write(tensor);
        Ok(())
    }

    fn submit(&mut self) -> Result<Ticket> {
        let mut store = lock(&self.store);
        let mut memory = Memory { own: &mut self.own, shared: &mut store.buffers };
        let (graph, locations, scratch, times) = (&self.graph, &self.locations, &mut self.scratch, &mut self.times);
        self.pool.install(|| {
            for (node, time) in graph.nodes.iter().zip(times) {
                let start = Instant::now();
                memory.run(graph, node, locations, scratch);
                *time = NodeTime { calls: 1, ms: start.elapsed().as_secs_f64() * 1e3 };
            }
        });
        let outputs = self.outputs.iter().map(|v| memory.buffer(self.locations[v.0]).read(&self.graph[*v].ty));
        let outputs = outputs.collect::<Result<Vec<_>>>()?;
        let ticket = Ticket(self.steps);
        self.steps += 1;
        self.done.insert(ticket, outputs);
        Ok(ticket)
    }

    fn outputs(&mut self, ticket: Ticket, _wait: bool) -> Result<Option<Vec<Tensor>>> {
        let missing = || Error::device(format!("step {} was not submitted, or its outputs were taken", ticket.0));
        self.done.remove(&ticket).map(Some).ok_or_else(missing)
    }

    fn memory_bytes(&self) -> u64 {
        (self.own.iter().map(Buffer::bytes).sum::<usize>() + self.scratch.bytes()) as u64
    }

    fn profile(&mut self) -> Result<Vec<NodeTime>> {
        let ticket = self.submit()?;
        self.done.remove(&ticket);
        Ok(self.times.clone())
    }
}

/// All buffers within a step.
struct Memory<'a> {
    own: &'a mut [Buffer],
    shared: &'a mut [Buffer],
}

impl Memory<'_> {
    /// Runs one node. The buffers of its outputs are taken out of the tables meanwhile: that is how the borrow checker knows
    /// that no input is written, and an input that is updated in place is reached as the output only.
    fn run(&mut self, graph: &Graph, node: &crate::graph::Node, locations: &[Location], scratch: &mut Buffer) {
        let taken = |memory: &mut Self, v: &ValueId| std::mem::take(memory.buffer_mut(locations[v.0]));
        let mut outputs: Vec<Buffer> = node.outputs.iter().map(|v| taken(self, v)).collect();
        let len = scratch.bytes() / size_of::<f32>();
        node.op.cpu().run(Io {
            inputs: node.inputs.iter().map(|v| (&graph[*v].ty, self.buffer(locations[v.0]))).collect(),
            outputs: std::iter::zip(&node.outputs, &mut outputs)
                .map(|(v, buffer)| (&graph[*v].ty, buffer.elements_mut(graph[*v].ty.shape.elements())))
                .collect(),
            scratch: scratch.elements_mut(len),
            threads: rayon::current_num_threads(),
        });
        for (v, buffer) in std::iter::zip(&node.outputs, outputs) {
            *self.buffer_mut(locations[v.0]) = buffer;
        }
    }

    fn buffer(&self, location: Location) -> &Buffer {
        match location {
            Location::Own(i) => &self.own[i],
            Location::Shared(i) => &self.shared[i],
        }
    }

    fn buffer_mut(&mut self, location: Location) -> &mut Buffer {
        match location {
            Location::Own(i) => &mut self.own[i],
            Location::Shared(i) => &mut self.shared[i],
        }
    }
}
