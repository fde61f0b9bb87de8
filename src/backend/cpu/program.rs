//! A compiled graph on the CPU: every buffer allocated once, the nodes run in order.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rayon::ThreadPool;

use super::available_memory;
use super::memory::{Buffer, Io, Kept, Store, lock};
use crate::backend::{NodeTime, Program, Ticket};
use crate::error::{Error, Result};
use crate::graph::plan::{self, Place};
use crate::graph::{Graph, Node, Role, Stage, ValueId};
use crate::tensor::Tensor;

/// Where a value's memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Location {
    /// One of the program's buffers: a slot of the plan, or an input.
    Own(usize),
    /// One of the device's: a parameter or state.
    Shared(usize),
}

/// What a node keeps from step to step of its weight.
struct Keep {
    memory: Buffer,
    /// Index of the weight in the store.
    weight: usize,
    /// Of the weight that it was made of.
    version: Option<u64>,
}

/// See [`Program`].
pub(super) struct CpuProgram {
    graph: Graph,
    /// Per value of the graph.
    locations: Vec<Location>,
    own: Vec<Buffer>,
    scratch: Buffer,
    /// Of each node.
    kept: Vec<Option<Keep>>,
    /// Of each node, in the last step.
    times: Vec<NodeTime>,
    store: Arc<Mutex<Store>>,
    pool: Arc<ThreadPool>,
    outputs: Vec<ValueId>,
    stages: Vec<Stage>,
    /// Number of the stage that comes next.
    next: usize,
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
                Role::Activation | Role::Received => continue,
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
                    // What another device sends is written, even where no node reads it.
                    own.push(if value.role == Role::Received { value.ty.bytes() } else { 0 });
                    Location::Own(own.len() - 1)
                }
            });
        }
        if let Some(output) = outputs.iter().find(|output| plan.places[output.0] == Place::Unused) {
            let name = &graph[*output].name;
            return Err(Error::input(format!("{name} is an output of the graph, and no node makes it")));
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
        // Bytes that each node keeps, where no node overwrites its weight.
        let overwritten =
            |place: Location| graph.nodes.iter().any(|node| node.outputs.iter().any(|o| locations[o.0] == place));
        let kept = graph.nodes.iter().map(|node| {
            let types = |values: &[ValueId]| values.iter().map(|v| &graph[*v].ty).collect::<Vec<_>>();
            let elements = node.op.cpu().kept(&types(&node.inputs), &types(&node.outputs));
            match node.inputs.get(1).map(|weight| locations[weight.0]) {
                Some(place @ Location::Shared(weight)) if elements > 0 && !overwritten(place) => {
                    Some((weight, elements * size_of::<f32>()))
                }
                _ => None,
            }
        });
        let kept: Vec<Option<(usize, usize)>> = kept.collect();
        let kept_bytes = kept.iter().flatten().map(|(_, bytes)| bytes).sum::<usize>();
        check_memory(own.iter().sum::<usize>() + scratch + kept_bytes)?;
        let keep = |(weight, bytes)| Ok(Keep { memory: Buffer::new(bytes)?, weight, version: None });
        let kept = kept.into_iter().map(|kept| kept.map(keep).transpose());
        Ok(CpuProgram {
            graph: graph.clone(),
            locations,
            own: own.into_iter().map(Buffer::new).collect::<Result<_>>()?,
            scratch: Buffer::new(scratch)?,
            kept: kept.collect::<Result<_>>()?,
            times: vec![NodeTime::default(); graph.nodes.len()],
            store,
            pool,
            outputs: outputs.to_vec(),
            stages: graph.stages(),
            next: 0,
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
        let (Role::Input | Role::Received, Location::Own(place)) = (value.role, self.locations[input.0]) else {
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
        let Stage { nodes, sent, .. } = &self.stages[self.next];
        self.next = (self.next + 1) % self.stages.len();
        let outputs: &[ValueId] = if self.next == 0 { &self.outputs } else { &[] };
        let mut store = lock(&self.store);
        let Store { buffers, versions, .. } = &mut *store;
        let mut memory = Memory { own: &mut self.own, shared: buffers, versions };
        let (graph, locations, scratch, times) = (&self.graph, &self.locations, &mut self.scratch, &mut self.times);
        let kept = &mut self.kept;
        self.pool.install(|| {
            for ((node, kept), time) in graph.nodes.iter().zip(kept).zip(times).take(nodes.end).skip(nodes.start) {
                let start = Instant::now();
                memory.run(graph, node, locations, scratch, kept.as_mut());
                *time = NodeTime { calls: 1, ms: start.elapsed().as_secs_f64() * 1e3 };
            }
        });
        let outputs = sent.iter().chain(outputs).map(|v| memory.buffer(self.locations[v.0]).read(&self.graph[*v].ty));
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
        let kept = self.kept.iter().flatten().map(|kept| kept.memory.bytes());
        (self.own.iter().map(Buffer::bytes).chain(kept).sum::<usize>() + self.scratch.bytes()) as u64
    }

    fn profile(&mut self) -> Result<Vec<NodeTime>> {
        for _ in 0..self.stages.len() {
            let ticket = self.submit()?;
            self.done.remove(&ticket);
        }
        Ok(self.times.clone())
    }
}

/// All buffers within a step.
struct Memory<'a> {
    own: &'a mut [Buffer],
    shared: &'a mut [Buffer],
    /// Of the device's.
    versions: &'a mut [u64],
}

impl Memory<'_> {
    /// Runs one node. The buffers of its outputs are taken out of the tables meanwhile: that is how the borrow checker knows
    /// that no input is written, and an input that is updated in place is reached as the output only.
    fn run(
        &mut self,
        graph: &Graph,
        node: &Node,
        locations: &[Location],
        scratch: &mut Buffer,
        mut kept: Option<&mut Keep>,
    ) {
        let taken = |memory: &mut Self, v: &ValueId| std::mem::take(memory.buffer_mut(locations[v.0]));
        let mut outputs: Vec<Buffer> = node.outputs.iter().map(|v| taken(self, v)).collect();
        let len = scratch.bytes() / size_of::<f32>();
        let version = kept.as_ref().map(|kept| self.versions[kept.weight]);
        let mut ready = kept.as_ref().is_some_and(|kept| kept.version == version);
        node.op.cpu().run(Io {
            inputs: node.inputs.iter().map(|v| (&graph[*v].ty, self.buffer(locations[v.0]))).collect(),
            outputs: std::iter::zip(&node.outputs, &mut outputs)
                .map(|(v, buffer)| (&graph[*v].ty, buffer.elements_mut(graph[*v].ty.shape.elements())))
                .collect(),
            scratch: scratch.elements_mut(len),
            kept: kept.as_mut().map(|kept| {
                let len = kept.memory.bytes() / size_of::<f32>();
                Kept { memory: kept.memory.elements_mut(len), ready: &mut ready }
            }),
            threads: rayon::current_num_threads(),
        });
        if let Some(kept) = kept {
            kept.version = version.filter(|_| ready);
        }
        for (v, buffer) in std::iter::zip(&node.outputs, outputs) {
            *self.buffer_mut(locations[v.0]) = buffer;
            if let Location::Shared(place) = locations[v.0] {
                self.versions[place] += 1;
            }
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

#[cfg(test)]
mod tests {
    use crate::backend::cpu::CpuDevice;
    use crate::backend::{Device, Program};
    use crate::graph::plan::{self, Place};
    use crate::graph::{Graph, Role, ValueId};
    use crate::models::{BuildOptions, Model, OptimizerConfig, train_graph};
    use crate::ops::{Conv2d, Sgd};
    use crate::tensor::{Tensor, TensorType};

    /// The weight of its first layer has 3 million elements.
    const MODEL: &str = r#"
name = "linear"
input = [3, 32, 32]
layers = ["flatten", { kind = "linear", out = 1024 }, "relu", { kind = "linear", out = "classes" }]
"#;

    const X: [usize; 4] = [2, 9, 7, 6];
    const W: [usize; 4] = [16, 9, 3, 3];

    fn normal<const N: usize>(shape: [usize; N], seed: u64) -> Tensor {
        let mut data = vec![0.0; shape.iter().product()];
        crate::rng::Philox { seed, stream: 0, step: 0 }.normal(&mut data);
        Tensor::f32(shape, data).unwrap()
    }

    fn convolution(role: Role) -> (Graph, [ValueId; 3]) {
        let mut graph = Graph::new();
        let x = graph.source("x", TensorType::f32(X), Role::Input).unwrap();
        let w = graph.source("w", TensorType::f32(W), role).unwrap();
        let conv = Conv2d { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };
        let y = graph.apply("conv", conv, &[x, w]).unwrap();
        (graph, [x, w, y])
    }

    fn step(program: &mut dyn Program) -> Vec<Tensor> {
        let ticket = program.submit().unwrap();
        program.outputs(ticket, true).unwrap().unwrap()
    }

    /// What is kept of a weight is of the weight as it is, whoever changed it, and numbers that Winograd's sums cannot take too.
    #[test]
    fn what_is_kept_follows_the_weight() {
        let mut device = CpuDevice::new(Some(2)).unwrap();
        let x = normal(X, 1);
        let (plain, [plain_x, plain_w, plain_y]) = convolution(Role::Input);
        let mut plain = device.compile(&plain, &[plain_y]).unwrap();
        plain.write(plain_x, &x).unwrap();
        let mut expected = |w: &Tensor| {
            plain.write(plain_w, w).unwrap();
            step(&mut *plain).remove(0)
        };
        device.set("w", &normal(W, 2)).unwrap();
        let (graph, [own_x, _, y]) = convolution(Role::Parameter);
        let mut program = device.compile(&graph, &[y]).unwrap();
        program.write(own_x, &x).unwrap();
        let mut huge = normal(W, 3).as_f32().unwrap().to_vec();
        huge[5] = 1e30;
        let huge = Tensor::f32(W, huge).unwrap();
        for w in [normal(W, 2), normal(W, 4), huge, normal(W, 5)] {
            device.set("w", &w).unwrap();
            for _ in 0..2 {
                assert_eq!(step(&mut *program)[0].bytes(), expected(&w).bytes());
            }
        }
        // An optimizer's step of another program.
        let mut update = Graph::new();
        let w = update.source("w", TensorType::f32(W), Role::Parameter).unwrap();
        let gradient = update.source("gradient", TensorType::f32(W), Role::Input).unwrap();
        let velocity = update.source("velocity", TensorType::f32(W), Role::State).unwrap();
        let schedule = update.source("schedule", TensorType::f32([4]), Role::Input).unwrap();
        let sgd = Sgd { momentum: 0.9, weight_decay: 0.0, nesterov: false, paper: false, lr_scale: 1.0 };
        let outputs = update.apply_all("update", sgd, &[w, gradient, velocity, schedule]).unwrap();
        device.set("velocity", &Tensor::zeros(&TensorType::f32(W)).unwrap()).unwrap();
        let mut update = device.compile(&update, &outputs).unwrap();
        update.write(gradient, &normal(W, 6)).unwrap();
        update.write(schedule, &Tensor::f32([4], vec![0.1, 0.0, 0.0, 0.0]).unwrap()).unwrap();
        let before = device.get("w").unwrap();
        step(&mut *update);
        let after = device.get("w").unwrap();
        assert_ne!(before.bytes(), after.bytes());
        assert_eq!(step(&mut *program)[0].bytes(), expected(&after).bytes());
    }

    /// Gradients of linear layers' weights, and what layers' sums were before bias and ReLU, are never stored: no memory either.
    #[test]
    fn values_that_no_node_makes_have_no_memory() {
        let model = Model::parse(MODEL, "linear").unwrap();
        let train = train_graph(&model, &BuildOptions::new(2, 2), &OptimizerConfig::adam(0.0), 0.0).unwrap();
        let mut device = CpuDevice::new(Some(2)).unwrap();
        for parameter in &train.parameters {
            device.set(&parameter.name, &parameter.initial(1).unwrap()).unwrap();
        }
        for (name, ty) in &train.states {
            device.set(name, &Tensor::zeros(ty).unwrap()).unwrap();
        }
        let outputs = [train.loss];
        let program = device.compile(&train.graph, &outputs).unwrap();
        let inputs = train.graph.values.iter().filter(|value| value.role == Role::Input);
        let inputs: usize = inputs.map(|value| value.ty.bytes().next_multiple_of(64)).sum();
        let plan = plan::plan(&train.graph, &outputs);
        let slots = plan.slots.iter().map(|bytes| bytes.next_multiple_of(64)).sum::<usize>();
        let values = (inputs + slots) as u64;
        let scratch = program.memory_bytes() - values;
        assert!(values < 100_000 && scratch < 500_000, "{values}, scratch {scratch}");

        let unused = plan.places.iter().position(|place| *place == Place::Unused).map(ValueId).unwrap();
        let error = device.compile(&train.graph, &[unused]).err().unwrap().to_string();
        assert!(error.contains("is an output of the graph, and no node makes it"), "{error}");
    }
}
