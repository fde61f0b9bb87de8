//! A compiled graph: one block of memory as the plan divides it, and the launches of a step recorded once, to be run as a whole (a CUDA
//! graph). Inputs come in on a stream of their own while the step before computes; nothing waits but for a step's outputs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use super::device::{GUARD, GUARD_BYTE, Shared};
use super::driver::{Event, Memory, Recorded};
use super::kernels::Kernel;
use super::libraries::Call;
use super::stage::{Results, Stage, Upload};
use crate::backend::variables::Variables;
use crate::backend::wgpu::dispatch::Dispatch;
use crate::backend::wgpu::lower::{Wanted, lower_parts, place};
use crate::backend::wgpu::lowering::{ALIGNMENT, Memory as Place, padded};
use crate::backend::{Choices, NodeTime, Parcel, Program, Ticket};
use crate::error::{Error, Result};
use crate::graph::plan::plan;
use crate::graph::{Graph, Node, Role, ValueId};
use crate::ops::{LinearUpdate, Op};
use crate::tensor::Tensor;

/// A graph on a GPU.
pub(super) struct CudaProgram {
    stages: Vec<Stage>,
    launches: Vec<Launch>,
    /// Of the graph.
    nodes: usize,
    /// Number of the stage that comes next.
    next: usize,
    in_flight: BTreeMap<Ticket, InFlight>,
    next_ticket: u64,
    /// Ends of ranges of memory, what lies before them, for tests.
    guards: Vec<(u64, String)>,
    memory_bytes: u64,
    /// See [`Program::refused`].
    pub refused: Vec<String>,
    /// Of inputs, slots and scratch.
    _arena: Memory,
    /// Kept as long as the launches need them.
    _variables: Vec<Arc<Memory>>,
    shared: Arc<Shared>,
}

/// A kernel with what it is given, or a call of a library.
struct Launch {
    /// Number of the node in the graph.
    node: usize,
    work: Work,
}

enum Work {
    Kernel {
        kernel: Arc<Kernel>,
        groups: [u32; 3],
        arguments: Vec<Argument>,
    },
    /// With the addresses of its operands, and of the memory that it may use beside them.
    Call {
        call: Box<Call>,
        addresses: Vec<u64>,
        workspace: u64,
    },
}

/// What a kernel is given for a binding.
enum Argument {
    Address(u64),
    Uniform(Vec<u8>),
}

/// A submitted stage.
struct InFlight {
    stage: usize,
    done: Event,
    results: Results,
    upload: Option<Upload>,
}

impl CudaProgram {
    /// Compiles a graph; convoy's own kernels compute the nodes `own`, to which one is added where a library refuses what it promised.
    ///
    /// # Errors
    /// The driver's or the libraries'.
    pub fn compile(
        shared: Arc<Shared>,
        variables: &Variables<Arc<Memory>>,
        choices: &Arc<Choices>,
        graph: &Graph,
        outputs: &[ValueId],
        own: &mut BTreeSet<usize>,
    ) -> Result<Self> {
        let plan = plan(graph, outputs);
        let calls = calls(&shared, choices, graph, own)?;
        let of_call = |number: usize| match graph.nodes[number].op {
            Op::LinearUpdate(_) => Wanted::Update,
            _ => Wanted::Nothing,
        };
        let part = |number: usize| if calls.contains_key(&number) { of_call(number) } else { Wanted::Whole };
        let lowered = lower_parts(shared.capability, choices, shared.max_buffer, graph, &plan, part)?;
        let ids = || (0..graph.values.len()).map(ValueId);
        let mut arena = Arena { guard: if shared.poison { GUARD } else { 0 }, ..Arena::default() };
        let mut addresses: HashMap<Place, u64> = HashMap::new();
        let (mut used, mut guards) = (Vec::new(), Vec::new());
        for id in ids() {
            let value = &graph[id];
            match value.role {
                Role::Activation | Role::Received => (),
                Role::Input => arena.add(Place::Source(id), value.ty.bytes() as u64, &value.name),
                Role::Parameter | Role::State => {
                    let memory = variables.of(value)?;
                    addresses.insert(Place::Source(id), memory.address);
                    guards.push((memory.address + padded(value.ty.bytes() as u64), value.name.clone()));
                    used.push(memory.clone());
                }
            }
        }
        for (index, &bytes) in plan.slots.iter().enumerate() {
            let held = ids().filter(|&id| place(&plan, id) == Place::Slot(index)).map(|id| graph[id].name.as_str());
            arena.add(Place::Slot(index), bytes as u64, &held.collect::<Vec<_>>().join(" or "));
        }
        for (index, &bytes) in lowered.scratch.iter().enumerate() {
            arena.add(Place::Scratch(index), bytes, &format!("scratch memory {index}"));
        }
        let workspace = calls.values().map(Call::workspace).max().unwrap_or(0);
        let of_calls = Place::Scratch(lowered.scratch.len());
        arena.add(of_calls, workspace, "the libraries' memory");
        let memory = shared.memory(arena.bytes)?;
        for Part { place, offset, bytes, name } in arena.parts {
            let address = memory.address + offset;
            addresses.insert(place, address);
            guards.push((address + bytes, name));
        }
        if shared.poison {
            guards.iter().try_for_each(|(end, _)| shared.stream.fill(*end, GUARD_BYTE, GUARD as usize))?;
        } else {
            guards.clear();
        }
        let mut launches = launches(&shared, &addresses, &lowered.dispatches)?;
        for (node, call) in calls {
            let Node { inputs, outputs, .. } = &graph.nodes[node];
            let mut operands: Vec<u64> = inputs.iter().chain(outputs).map(|&id| addresses[&place(&plan, id)]).collect();
            if of_call(node) == Wanted::Update {
                operands[inputs.len()] = addresses[&Place::Scratch(0)]; // the gradient, before it is used
            }
            let launch = Launch {
                node,
                work: Work::Call { call: Box::new(call), addresses: operands, workspace: addresses[&of_calls] },
            };
            // What a library loads when it is first called it could not load while a step is being recorded.
            launch.launch(&shared).map_err(|error| {
                own.insert(node);
                let Node { layer, op, .. } = &graph.nodes[node];
                Error::device(format!("{layer} {}: {error}", op.name()))
            })?;
            launches.push(launch);
        }
        // A library's call comes before what kernels make of its result.
        launches.sort_by_key(|launch| (launch.node, matches!(launch.work, Work::Kernel { .. })));
        shared.stream.wait()?;
        let all = graph.stages();
        let mut stages = Vec::new();
        for (number, stage) in all.iter().enumerate() {
            let received = stage.received.iter().copied().filter(|&id| addresses.contains_key(&place(&plan, id)));
            let given = graph.with_role(Role::Input).filter(|_| number == 0);
            let at = |id: ValueId| (graph[id].ty.clone(), addresses[&place(&plan, id)]);
            let last = outputs.iter().filter(|_| number + 1 == all.len());
            let [sent, kept] = [stage.sent.iter().copied().map(at).collect(), last.copied().map(at).collect()];
            let recorded = record(&shared, of_nodes(&launches, &stage.nodes), own)?;
            stages.push(Stage::new(given.chain(received).map(|id| (id, at(id))), sent, kept, recorded));
        }
        shared.stream.wait()?;
        Ok(CudaProgram {
            stages,
            launches,
            nodes: graph.nodes.len(),
            next: 0,
            in_flight: BTreeMap::new(),
            next_ticket: 0,
            guards,
            memory_bytes: arena.bytes,
            refused: Vec::new(),
            _arena: memory,
            _variables: used,
            shared,
        })
    }

    /// Submits the next stage, and has its results come to the host: what it sends too, unless that is returned.
    fn run(&mut self, hands_over: bool) -> Result<(Ticket, Vec<Parcel>)> {
        let shared = self.shared.clone();
        shared.context.bind()?;
        let number = self.next;
        self.next = (number + 1) % self.stages.len();
        let stage = &mut self.stages[number];
        let upload = stage.land(&shared)?;
        if let Some(recorded) = &stage.recorded {
            shared.stream.run(recorded)?;
        }
        let parcels = if hands_over { stage.send(&shared, &mut self.memory_bytes)? } else { Vec::new() };
        let results = stage.download(&shared, !hands_over)?;
        let done = Event::new(&shared.context)?;
        done.record(&shared.stream)?;
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.in_flight.insert(ticket, InFlight { stage: number, done, results, upload });
        Ok((ticket, parcels))
    }

    /// That no guard was written.
    fn check_guards(&self) -> Result<()> {
        let mut found = vec![0; GUARD as usize];
        for (end, name) in &self.guards {
            self.shared.stream.download(&mut found, *end)?;
            self.shared.stream.wait()?;
            if let Some(at) = found.iter().position(|&byte| byte != GUARD_BYTE) {
                return Err(Error::device(format!("a kernel wrote {at} bytes past the end of {name}")));
            }
        }
        Ok(())
    }
}

/// A block of memory that is being divided.
#[derive(Default)]
struct Arena {
    parts: Vec<Part>,
    bytes: u64,
    /// Bytes behind each part.
    guard: u64,
}

struct Part {
    place: Place,
    offset: u64,
    bytes: u64,
    /// What lies there.
    name: String,
}

impl Arena {
    fn add(&mut self, place: Place, bytes: u64, name: &str) {
        let bytes = padded(bytes);
        self.parts.push(Part { place, offset: self.bytes, bytes, name: name.into() });
        self.bytes = (self.bytes + bytes + self.guard).next_multiple_of(ALIGNMENT);
    }
}

/// The calls of NVIDIA's libraries by the number of the node that each computes; none for the nodes `own`.
fn calls(shared: &Shared, choices: &Choices, graph: &Graph, own: &BTreeSet<usize>) -> Result<BTreeMap<usize, Call>> {
    let mut calls = BTreeMap::new();
    let Some(libraries) = &shared.libraries else { return Ok(calls) };
    shared.context.bind()?;
    for (number, node) in graph.nodes.iter().enumerate().filter(|(number, _)| !own.contains(number)) {
        // Of a gradient that the optimizer uses at once the product alone is a library's.
        let signature = match LinearUpdate::product(node) {
            Some(gradient) => graph.signature(&gradient),
            None => graph.signature(node),
        };
        let chosen = choices.get(&signature).map(String::as_str);
        if let Some(call) = libraries.of_node(&node.op, &graph.types(node), chosen) {
            calls.insert(number, call);
        }
    }
    Ok(calls)
}

/// The kernels of dispatches, with their arguments.
fn launches(shared: &Shared, addresses: &HashMap<Place, u64>, dispatches: &[Dispatch]) -> Result<Vec<Launch>> {
    let kernels = shared.kernels().get(&shared.context, dispatches)?;
    let launch = |(dispatch, kernel): (&Dispatch, Arc<Kernel>)| {
        let argument = |binding: &u32| match dispatch.windows.iter().find(|(index, _)| index == binding) {
            Some((_, window)) => Argument::Address(addresses[&window.memory] + window.offset),
            None => Argument::Uniform(dispatch.uniform.clone()),
        };
        let arguments = kernel.bindings.iter().map(argument).collect();
        Launch { node: dispatch.node, work: Work::Kernel { kernel, groups: dispatch.groups, arguments } }
    };
    Ok(dispatches.iter().zip(kernels).map(launch).collect())
}

impl Launch {
    fn launch(&self, shared: &Shared) -> Result<()> {
        let at = |argument: &Argument| match argument {
            Argument::Address(address) => std::ptr::from_ref(address).cast_mut().cast::<c_void>(),
            Argument::Uniform(bytes) => bytes.as_ptr().cast_mut().cast(),
        };
        match (&self.work, &shared.libraries) {
            (Work::Kernel { kernel, groups, arguments }, _) => {
                let mut arguments: Vec<*mut c_void> = arguments.iter().map(at).collect();
                shared.stream.launch(&kernel.function, *groups, &mut arguments)
            }
            (Work::Call { call, addresses, workspace }, Some(libraries)) => {
                libraries.run(call, addresses, *workspace, &shared.stream)
            }
            (Work::Call { .. }, None) => Err(Error::device("a library is gone")),
        }
    }
}

/// The launches of some of a graph's nodes.
fn of_nodes<'a>(launches: &'a [Launch], nodes: &Range<usize>) -> &'a [Launch] {
    let before = |node: usize| launches.partition_point(|launch| launch.node < node);
    &launches[before(nodes.start)..before(nodes.end)]
}

/// None for no launches, of which nothing can be made. A library's call that cannot be recorded is added to `own`.
fn record(shared: &Shared, launches: &[Launch], own: &mut BTreeSet<usize>) -> Result<Option<Recorded>> {
    let mut launch = |launch: &Launch| {
        launch.launch(shared).inspect_err(|_| {
            if let Work::Call { .. } = launch.work {
                own.insert(launch.node);
            }
        })
    };
    match launches {
        [] => Ok(None),
        _ => shared.stream.record(|| launches.iter().try_for_each(&mut launch)).map(Some),
    }
}

impl Program for CudaProgram {
    fn write(&mut self, input: ValueId, tensor: &Tensor) -> Result<()> {
        self.stages[self.next].write(&self.shared, input, tensor, &mut self.memory_bytes)
    }

    fn submit(&mut self) -> Result<Ticket> {
        self.run(false).map(|(ticket, _)| ticket)
    }

    fn hand_over(&mut self) -> Result<(Ticket, Vec<Parcel>)> {
        self.run(true)
    }

    fn receive(&mut self, value: ValueId, parcel: &Parcel) -> Result<()> {
        self.stages[self.next].receive(&self.shared, value, parcel, &mut self.memory_bytes)
    }

    fn outputs(&mut self, ticket: Ticket, wait: bool) -> Result<Option<Vec<Tensor>>> {
        let Some(step) = self.in_flight.get(&ticket) else {
            return Err(Error::input(format!("the outputs of step {} were taken already", ticket.0)));
        };
        self.shared.context.bind()?;
        if wait {
            step.done.wait()?;
        } else if !step.done.is_done()? {
            return Ok(None);
        }
        let Some(InFlight { stage, results, upload, .. }) = self.in_flight.remove(&ticket) else { return Ok(None) };
        let tensors = self.stages[stage].take(results, upload)?;
        self.check_guards()?;
        Ok(Some(tensors))
    }

    fn refused(&self) -> &[String] {
        &self.refused
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    fn profile(&mut self) -> Result<Vec<NodeTime>> {
        let shared = self.shared.clone();
        shared.context.bind()?;
        let upload = self.stages[0].land(&shared)?;
        // Recorded as a step is, with an event between two launches: what the host does for a launch is not timed.
        let events = (0..=self.launches.len()).map(|_| Event::timed(&shared.context)).collect::<Result<Vec<_>>>()?;
        let recorded = shared.stream.record(|| {
            events[0].record_within(&shared.stream)?;
            self.launches.iter().zip(&events[1..]).try_for_each(|(launch, event)| {
                launch.launch(&shared)?;
                event.record_within(&shared.stream)
            })
        })?;
        shared.stream.run(&recorded)?;
        shared.stream.wait()?;
        self.stages[0].give_back(upload);
        let mut times = vec![NodeTime::default(); self.nodes];
        for (launch, between) in self.launches.iter().zip(events.windows(2)) {
            times[launch.node].calls += 1;
            times[launch.node].ms += between[1].since(&between[0])?;
        }
        Ok(times)
    }
}

impl Drop for CudaProgram {
    /// Nothing is freed that a step in flight uses.
    fn drop(&mut self) {
        let _ = self.shared.context.bind().and_then(|()| self.shared.stream.wait());
    }
}
