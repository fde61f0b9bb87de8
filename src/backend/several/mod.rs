//! Several devices as one: a graph is cut over them ([`crate::graph::partition`]), each runs its part, and what one needs of another
//! goes from device to device where all can ([`Device::hands_over`]), else through the host's memory.
//!
//! Parameters and states are cut as the first graph that uses them says, and set and read as a whole: a checkpoint does not
//! show how many devices made it. Each device's part is driven by a thread of its own (`worker`), which hands on what its device
//! sends as soon as it is there.

mod host;
mod worker;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Device, DeviceInfo, Finding, NodeTime, Precision, Program, Ticket};
use crate::error::{Error, Result};
use crate::graph::partition::{Layout, Parallel, Partition, Report, partition};
use crate::graph::{Graph, Role, ValueId};
use crate::tensor::{Tensor, TensorType};
use host::{join, part};
use worker::Worker;

/// Devices that run each graph together.
pub struct SeveralDevices {
    info: DeviceInfo,
    devices: Vec<Box<dyn Device>>,
    parallel: Parallel,
    /// How parameters and states that a graph uses are cut.
    layouts: HashMap<String, Layout>,
    /// Parameters and states that no graph uses yet.
    unused: HashMap<String, Tensor>,
    running: Arc<Running>,
}

/// The steps that were submitted and have not run on every device. Programs share parameters, so that a program begins when those
/// of the others have run.
#[derive(Default)]
struct Running {
    steps: Mutex<Steps>,
    done: Condvar,
}

#[derive(Default)]
struct Steps {
    /// Programs made so far; each has the number that it was.
    programs: usize,
    /// Number of the one whose steps these are.
    program: usize,
    /// Those of all its workers.
    left: usize,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing runs but steps of `program`.
    fn wait(&self, program: Option<usize>) -> MutexGuard<'_, Steps> {
        let others = |steps: &mut Steps| steps.left > 0 && Some(steps.program) != program;
        self.done.wait_while(self.lock(), others).unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a worker's step ran, or never will.
    fn finish(&self, steps: usize) {
        let mut running = self.lock();
        running.left = running.left.saturating_sub(steps);
        self.done.notify_all();
    }
}

impl SeveralDevices {
    /// Makes one of `devices`, of which there must be two or more, all with the same precision.
    ///
    /// # Errors
    /// [`Error::Input`] otherwise.
    pub fn new(devices: Vec<Box<dyn Device>>, parallel: Parallel) -> Result<Self> {
        let [first, _, ..] = &devices[..] else {
            return Err(Error::input(format!("expected two or more devices, got {}", devices.len())));
        };
        if let Some(other) = devices.iter().find(|device| device.precision().name() != first.precision().name()) {
            let (a, b) = (first.precision().name(), other.precision().name());
            return Err(Error::input(format!("all devices must multiply alike, got {a} and {b}")));
        }
        let infos: Vec<&DeviceInfo> = devices.iter().map(|device| device.info()).collect();
        let list =
            |of: fn(&DeviceInfo) -> &str| infos.iter().map(|info| of(info).to_string()).collect::<Vec<_>>().join(" + ");
        let info = DeviceInfo {
            name: list(|info| &info.name),
            backend: list(|info| &info.backend),
            driver: list(|info| &info.driver),
            // The processor's own memory is not told apart by device.
            software: infos.iter().any(|info| info.software || info.backend == "cpu"),
            selectors: Vec::new(),
            ..infos[0].clone()
        };
        let (layouts, unused, running) = (HashMap::new(), HashMap::new(), Arc::default());
        Ok(SeveralDevices { info, devices, parallel, layouts, unused, running })
    }

    /// Cuts a graph as [`Device::compile`] does.
    fn cut(&self, graph: &Graph, outputs: &[ValueId]) -> Result<Partition> {
        partition(graph, outputs, self.devices.len(), self.parallel, &self.layouts)
    }
}

impl Device for SeveralDevices {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn parts(&self) -> Vec<&DeviceInfo> {
        self.devices.iter().map(|device| device.info()).collect()
    }

    fn exchange(&self, graph: &Graph, outputs: &[ValueId]) -> Result<Option<Report>> {
        Ok(Some(Report::new(graph, outputs, &self.cut(graph, outputs)?)))
    }

    fn precision(&self) -> Precision {
        self.devices[0].precision()
    }

    fn probe(&mut self) -> Result<Vec<Finding>> {
        let findings: Result<Vec<_>> = self.devices.iter_mut().map(|device| device.probe()).collect();
        Ok(findings?.concat())
    }

    fn set(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let Some(layout) = self.layouts.get(name) else {
            self.unused.insert(name.into(), tensor.clone());
            return Ok(());
        };
        drop(self.running.wait(None));
        for (d, device) in self.devices.iter_mut().enumerate() {
            device.set(name, &part(tensor, layout, d)?)?;
        }
        Ok(())
    }

    fn get(&mut self, name: &str) -> Result<Tensor> {
        let Some(layout) = self.layouts.get(name) else {
            let unknown = || Error::input(format!("the device holds no parameter \"{name}\""));
            return self.unused.get(name).cloned().ok_or_else(unknown);
        };
        drop(self.running.wait(None));
        match layout {
            Layout::Split { axis, .. } => {
                let parts: Result<Vec<_>> = self.devices.iter_mut().map(|device| device.get(name)).collect();
                join(&parts?, *axis)
            }
            _ => self.devices[0].get(name),
        }
    }

    fn remove(&mut self, name: &str) {
        self.unused.remove(name);
        if self.layouts.remove(name).is_some() {
            drop(self.running.wait(None));
            self.devices.iter_mut().for_each(|device| device.remove(name));
        }
    }

    fn compile(&mut self, graph: &Graph, outputs: &[ValueId]) -> Result<Box<dyn Program>> {
        let partition = self.cut(graph, outputs)?;
        drop(self.running.wait(None));
        for (&value, source) in &partition.sources {
            let value = &graph[value];
            if !matches!(value.role, Role::Parameter | Role::State) || self.layouts.contains_key(&value.name) {
                continue;
            }
            let missing = || Error::shape(&value.name, "is not on the device: set it before compiling");
            let tensor = self.unused.remove(&value.name).ok_or_else(missing)?;
            if tensor.ty() != value.ty {
                let message = format!("the graph expects {}, the device holds {}", value.ty.shape, tensor.shape());
                self.unused.insert(value.name.clone(), tensor);
                return Err(Error::shape(&value.name, message));
            }
            self.layouts.insert(value.name.clone(), source.layout.clone());
            for (d, device) in self.devices.iter_mut().enumerate() {
                device.set(&value.name, &part(&tensor, &source.layout, d)?)?;
            }
        }
        let number = {
            let mut steps = self.running.lock();
            steps.programs += 1;
            steps.programs
        };
        let mut ends = worker::mailboxes(&partition);
        let direct = self.devices.iter().all(|device| device.hands_over());
        let mut workers = Vec::new();
        let (mut memory_bytes, mut refused) = (0, Vec::new());
        for (d, device) in self.devices.iter_mut().enumerate() {
            let part = &partition.parts[d];
            if part.is_idle() {
                workers.push(None);
                continue;
            }
            let program = device.compile(&part.graph, &part.output_values())?;
            memory_bytes += program.memory_bytes();
            refused.extend_from_slice(program.refused());
            let mail = ends.remove(0);
            workers.push(Some(Worker::start(d, program, part.graph.stages(), mail, direct, self.running.clone())?));
        }
        let types = outputs.iter().map(|&output| graph[output].ty.clone()).collect();
        let program = SeveralProgram {
            number,
            partition,
            types,
            inputs: graph.with_role(Role::Input).map(|input| (input, graph[input].ty.clone())).collect(),
            workers,
            taken: BTreeMap::new(),
            next: 0,
            memory_bytes,
            refused,
            running: self.running.clone(),
        };
        Ok(Box::new(program))
    }
}

/// A graph on several devices.
struct SeveralProgram {
    number: usize,
    partition: Partition,
    /// Of the outputs.
    types: Vec<TensorType>,
    /// Of the whole graph.
    inputs: HashMap<ValueId, TensorType>,
    /// Of each device that has something to do.
    workers: Vec<Option<Worker>>,
    /// What devices gave of a step that others have not done.
    taken: BTreeMap<Ticket, Vec<Option<Vec<Tensor>>>>,
    next: u64,
    memory_bytes: u64,
    refused: Vec<String>,
    running: Arc<Running>,
}

impl Program for SeveralProgram {
    fn write(&mut self, input: ValueId, tensor: &Tensor) -> Result<()> {
        let ty = self
            .inputs
            .get(&input)
            .ok_or_else(|| Error::input(format!("value {} is not an input of this program", input.0)))?;
        if tensor.ty() != *ty {
            let got = tensor.ty();
            let message = format!("expected {:?} {}, got {:?} {}", ty.dtype, ty.shape, got.dtype, got.shape);
            return Err(Error::shape("input", message));
        }
        // An input that nothing reads is no source.
        let Some(source) = self.partition.sources.get(&input) else { return Ok(()) };
        for (d, worker) in self.workers.iter().enumerate() {
            if let Some(worker) = worker {
                worker.write(source.locals[d], part(tensor, &source.layout, d)?)?;
            }
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<Ticket> {
        let ticket = Ticket(self.next);
        let busy = self.workers.iter().flatten().count();
        {
            let mut steps = self.running.wait(Some(self.number));
            (steps.program, steps.left) = (self.number, steps.left + busy);
        }
        self.next += 1;
        self.taken.insert(ticket, vec![None; self.workers.len()]);
        self.workers.iter().flatten().try_for_each(Worker::step)?;
        Ok(ticket)
    }

    fn outputs(&mut self, ticket: Ticket, wait: bool) -> Result<Option<Vec<Tensor>>> {
        let unknown = || Error::input(format!("the outputs of step {} were taken already", ticket.0));
        if !self.taken.contains_key(&ticket) {
            return Err(unknown());
        }
        for (d, worker) in self.workers.iter().enumerate() {
            let Some(worker) = worker else { continue };
            // A worker tells of its steps in their order.
            while self.taken.get(&ticket).is_some_and(|taken| taken[d].is_none()) {
                let Some(outputs) = worker.outputs(wait).map_err(|error| self.cause(error))? else { return Ok(None) };
                let Some(oldest) = self.taken.values_mut().find(|taken| taken[d].is_none()) else { break };
                oldest[d] = Some(outputs);
            }
        }
        let mut taken: Vec<_> =
            self.taken.remove(&ticket).ok_or_else(unknown)?.into_iter().map(Option::unwrap_or_default).collect();
        taken.iter_mut().for_each(|outputs| outputs.reverse());
        let outputs = self.partition.outputs.iter().zip(&self.types).map(|(layout, ty)| {
            let lost = || Error::device("the devices lost the outputs of a step");
            let pieces = match layout {
                Layout::Split { .. } => taken.iter_mut().map(|outputs| outputs.pop().ok_or_else(lost)).collect(),
                _ => taken[0].pop().map(|output| vec![output]).ok_or_else(lost),
            };
            let joined = match layout {
                Layout::Split { axis, .. } => join(&pieces?, *axis)?,
                _ => pieces?.remove(0),
            };
            if joined.ty() == *ty { Ok(joined) } else { Err(lost()) }
        });
        outputs.collect::<Result<Vec<_>>>().map(Some)
    }

    fn refused(&self) -> &[String] {
        &self.refused
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    fn profile(&mut self) -> Result<Vec<NodeTime>> {
        Err(Error::Unsupported {
            op: "a profile".into(),
            by: "several devices at once".into(),
            hint: "give one device to --adapter to time its kernels".into(),
        })
    }
}

impl Drop for SeveralProgram {
    /// All threads end before one is waited for: it may wait for another.
    fn drop(&mut self) {
        self.workers.iter_mut().flatten().for_each(Worker::close);
    }
}

impl SeveralProgram {
    /// Why a step failed: of the errors that workers end with, the one that is not that another ended.
    fn cause(&self, error: Error) -> Error {
        match error {
            Error::Device(message) if message == worker::ANOTHER_FAILED => {
                let others = self.workers.iter().flatten().filter_map(Worker::failure);
                let cause = others.into_iter().find(|error| error.to_string() != worker::ANOTHER_FAILED);
                cause.unwrap_or(Error::Device(message))
            }
            other => other,
        }
    }
}
