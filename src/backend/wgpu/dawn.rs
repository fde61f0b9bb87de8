//! Dawn, Chromium's WebGPU, as a device for tests: its compiler of WGSL, Tint, and its checks owe nothing to naga and wgpu. It
//! runs in a node process, `tests/compilers/dawn.mjs`, and does what it is told over a pipe.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::dispatch::{Dispatch, Key};
use super::lower::{lower, place};
use super::lowering::{ALIGNMENT, Capability, Memory, TEXTURE_WIDTH, padded};
use super::shaders::{BindingKind, Kernel};
use super::step::uniforms;
use super::translate::{RANDOM, dispatches, parse, pipelines, storage_buffers, uses_f16, uses_subgroups};
use crate::backend::{Device, DeviceInfo, DeviceType, Finding, NodeTime, Program, Ticket};
use crate::error::{Error, Result};
use crate::graph::plan::plan;
use crate::graph::{Graph, Role, ValueId};
use crate::ops::case::Case;
use crate::selftest::{Prepared, Selection, Suite};
use crate::tensor::{Tensor, TensorType};

/// WebGPU's name of the feature.
const SUBGROUPS: &str = "subgroups";

/// Number of something that the process made.
type Handle = u64;

/// The process, with a device open in it that has WebGPU's default limits.
pub(super) struct Dawn {
    process: Child,
    requests: ChildStdin,
    answers: ChildStdout,
    /// What the device says of itself.
    about: Value,
    pipelines: HashMap<Key, Handle>,
}

impl Dawn {
    /// Opens a device with those of `features` that there are, and no others. `options` are Dawn's own: `backend=null` is a
    /// device that only compiles.
    pub fn open(options: &[&str], features: &[&str]) -> Result<Dawn> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/target/compilers");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/compilers/dawn.mjs");
        let mut command = Command::new("node");
        let piped = command.args([script, folder]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = piped.spawn().map_err(|e| Error::device(format!("node: {e}")))?;
        let (requests, answers) = (process.stdin.take(), process.stdout.take());
        let (requests, answers) = (requests.expect("it is piped"), answers.expect("it is piped"));
        let mut dawn = Dawn { process, requests, answers, about: Value::Null, pipelines: HashMap::new() };
        dawn.about = dawn.ask("open", json!({ "options": options, "features": features }))?;
        Ok(dawn)
    }

    fn ask(&mut self, request: &str, details: Value) -> Result<Value> {
        Ok(self.exchange(request, details, &[])?.0)
    }

    /// Sends a request with `bytes`; the answer, and the bytes that came with it.
    fn exchange(&mut self, request: &str, mut details: Value, bytes: &[u8]) -> Result<(Value, Vec<u8>)> {
        details["request"] = request.into();
        details["bytes"] = bytes.len().into();
        let message = |e: std::io::Error| Error::device(format!("Dawn's process: {e}"));
        let header = details.to_string();
        let length = (header.len() as u32).to_le_bytes();
        for part in [&length[..], header.as_bytes(), bytes] {
            self.requests.write_all(part).map_err(message)?;
        }
        let mut read = |length: u64| {
            let mut bytes = vec![0; length as usize];
            self.answers.read_exact(&mut bytes).map(|()| bytes).map_err(message)
        };
        let length = bytemuck::pod_read_unaligned::<u32>(&read(4)?);
        let mut answer: Value = serde_json::from_slice(&read(length.into())?).expect("the process writes JSON");
        let bytes = read(number(&answer["bytes"]))?;
        match answer["error"].as_str() {
            Some(error) => Err(Error::device(format!("Dawn: {error}"))),
            None => Ok((answer["answer"].take(), bytes)),
        }
    }

    /// The pipeline of a dispatch, made now or before.
    pub fn pipeline(&mut self, dispatch: &Dispatch) -> Result<Handle> {
        let key = dispatch.key();
        if let Some(&known) = self.pipelines.get(&key) {
            return Ok(known);
        }
        let kernel = &dispatch.kernel;
        let bindings: Vec<Value> = kernel.bindings.iter().map(|b| layout(b.index, b.kind)).collect();
        let constants: HashMap<_, _> = dispatch.overrides.iter().copied().collect();
        let made = self.ask(
            "pipeline",
            json!({ "source": source(kernel), "entryPoint": kernel.entry, "constants": constants, "bindings": bindings }),
        )?;
        self.pipelines.insert(key, number(&made));
        Ok(number(&made))
    }

    /// Compiles a kernel that binds more buffers than the device has, without a pipeline.
    fn module(&mut self, kernel: &Kernel) -> Result<()> {
        self.ask("module", json!({ "source": source(kernel) })).map(drop)
    }

    fn buffer(&mut self, bytes: u64) -> Result<Handle> {
        Ok(number(&self.ask("buffer", json!({ "size": padded(bytes) }))?))
    }

    fn write(&mut self, buffer: Handle, bytes: &[u8]) -> Result<()> {
        let mut words = bytes.to_vec();
        words.resize(bytes.len().next_multiple_of(4), 0);
        self.exchange("write", json!({ "buffer": buffer }), &words)?;
        Ok(())
    }
}

impl Drop for Dawn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A whole number in an answer.
fn number(value: &Value) -> u64 {
    value.as_u64().expect("the process answers with a number")
}

/// The kernel in WGSL's own words: naga takes subgroups without the word that enables them, and refuses it.
fn source(kernel: &Kernel) -> String {
    let enable = if uses_subgroups(&parse(kernel)) { "enable subgroups;\n" } else { "" };
    format!("{enable}{}", kernel.source)
}

/// An entry of a bind group layout, as WebGPU has it.
fn layout(binding: u32, kind: BindingKind) -> Value {
    match kind {
        BindingKind::Read => json!({ "binding": binding, "buffer": { "type": "read-only-storage" } }),
        BindingKind::ReadWrite => json!({ "binding": binding, "buffer": { "type": "storage" } }),
        BindingKind::Uniform { .. } => json!({ "binding": binding, "buffer": { "type": "uniform" } }),
        BindingKind::Texels => {
            json!({ "binding": binding, "storageTexture": { "format": TEXEL_FORMAT, "access": "read-only" } })
        }
        BindingKind::WriteTexels => json!({ "binding": binding, "storageTexture": { "format": TEXEL_FORMAT } }),
    }
}

/// Format of [`Memory::Texels`], by its name in WebGPU.
const TEXEL_FORMAT: &str = "rgba32float";

/// Dawn as a backend. Its fresh memory holds NaN.
pub(super) struct DawnDevice {
    info: DeviceInfo,
    capability: Capability,
    dawn: Arc<Mutex<Dawn>>,
    variables: HashMap<String, Handle>,
}

impl DawnDevice {
    /// A device that uses the kernels for GPUs, or with `software` those for processors.
    pub fn open(software: bool) -> Result<DawnDevice> {
        let dawn = Dawn::open(&[], if software { &[SUBGROUPS] } else { &[] })?;
        let text = |name: &str| dawn.about[name].as_str().unwrap_or_default().to_string();
        let max_binding_bytes = number(&dawn.about["maxStorageBufferBindingSize"]);
        let subgroup = dawn.about["subgroup"].as_u64().map(|lanes| lanes as u32);
        let info = DeviceInfo {
            index: 0,
            name: text("name"),
            backend: "dawn".into(),
            device_type: DeviceType::Other,
            driver: text("driver"),
            software,
            selectors: Vec::new(),
            max_binding_bytes,
            max_buffer_bytes: number(&dawn.about["maxBufferSize"]),
            memory_bytes: None,
            f16: false,
            subgroups: subgroup.is_some(),
            timestamps: false,
            matrices: false,
        };
        let max_window = max_binding_bytes / ALIGNMENT * ALIGNMENT;
        let capability = Capability { software, subgroup, ..Capability::gpu(max_window) };
        Ok(DawnDevice { info, capability, dawn: Arc::new(Mutex::new(dawn)), variables: HashMap::new() })
    }
}

impl Device for DawnDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn probe(&mut self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    fn set(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let mut dawn = lock(&self.dawn);
        let buffer = match self.variables.get(name) {
            Some(&buffer) => buffer,
            None => dawn.buffer(tensor.bytes().len() as u64)?,
        };
        self.variables.insert(name.into(), buffer);
        dawn.write(buffer, tensor.bytes())
    }

    fn get(&mut self, name: &str) -> Result<Tensor> {
        Err(Error::input(format!("{name}: what a step leaves is read as its output")))
    }

    fn compile(&mut self, graph: &Graph, outputs: &[ValueId]) -> Result<Box<dyn Program>> {
        let plan = plan(graph, outputs);
        let lowered = lower(self.capability, &Default::default(), self.info.max_buffer_bytes, graph, &plan)?;
        let mut dawn = lock(&self.dawn);
        let mut own = HashMap::new();
        for input in graph.with_role(Role::Input) {
            own.insert(Memory::Source(input), dawn.buffer(graph[input].ty.bytes() as u64)?);
        }
        for (index, &bytes) in plan.slots.iter().enumerate() {
            own.insert(Memory::Slot(index), dawn.buffer(bytes as u64)?);
        }
        for (index, &bytes) in lowered.scratch.iter().enumerate() {
            own.insert(Memory::Scratch(index), dawn.buffer(bytes)?);
        }
        for (index, rows) in lowered.textures.iter().enumerate() {
            let size = [TEXTURE_WIDTH, *rows];
            let texture = dawn.ask("texture", json!({ "size": size, "format": TEXEL_FORMAT }))?;
            own.insert(Memory::Texels(index), number(&texture));
        }
        let resource = |memory: Memory| match (memory, own.get(&memory)) {
            (_, Some(&own)) => own,
            (Memory::Source(id), None) => self.variables[&graph[id].name],
            (other, None) => panic!("{other:?} is not in the plan"),
        };
        let (bytes, offsets) = uniforms(&lowered.dispatches);
        let uniform = dawn.buffer(bytes.len() as u64)?;
        dawn.write(uniform, &bytes)?;
        let mut dispatches = Vec::new();
        for (dispatch, offset) in lowered.dispatches.iter().zip(offsets) {
            let entry = |binding, resource, offset, size| json!({ "binding": binding, "resource": resource, "offset": offset, "size": size });
            let windows = dispatch.windows.iter();
            let mut entries: Vec<Value> =
                windows.map(|(binding, w)| entry(*binding, resource(w.memory), w.offset, w.size)).collect();
            for binding in dispatch.kernel.bindings {
                if let BindingKind::Uniform { size, .. } = binding.kind {
                    entries.push(entry(binding.index, uniform, offset, size.into()));
                }
            }
            let pipeline = dawn.pipeline(dispatch)?;
            let copies = dispatch.copies.iter().flat_map(|copy| {
                copy.boxes().map(|(offset, origin, extent)| {
                    json!({ "buffer": resource(copy.from), "offset": offset, "texture": resource(Memory::Texels(copy.to)),
                            "origin": origin, "extent": extent, "bytesPerRow": TEXTURE_WIDTH * 16 })
                })
            });
            let copies: Vec<Value> = copies.collect();
            dispatches
                .push(json!({ "pipeline": pipeline, "entries": entries, "groups": dispatch.groups, "copies": copies }));
        }
        let program = number(&dawn.ask("program", json!({ "dispatches": dispatches }))?);
        let outputs = outputs.iter().map(|&id| (graph[id].ty.clone(), resource(place(&plan, id)))).collect();
        let inputs = graph.with_role(Role::Input).map(|id| (id, resource(Memory::Source(id)))).collect();
        let own = own.into_values().chain([uniform]).collect();
        Ok(Box::new(DawnProgram { dawn: self.dawn.clone(), program, inputs, outputs, own, steps: Vec::new() }))
    }
}

/// The process, for one exchange.
fn lock(dawn: &Mutex<Dawn>) -> MutexGuard<'_, Dawn> {
    dawn.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A graph on Dawn.
struct DawnProgram {
    dawn: Arc<Mutex<Dawn>>,
    program: Handle,
    inputs: HashMap<ValueId, Handle>,
    outputs: Vec<(TensorType, Handle)>,
    /// What goes with the program.
    own: Vec<Handle>,
    /// The outputs of each step, until they are taken.
    steps: Vec<Option<Vec<Tensor>>>,
}

impl Program for DawnProgram {
    fn write(&mut self, input: ValueId, tensor: &Tensor) -> Result<()> {
        lock(&self.dawn).write(self.inputs[&input], tensor.bytes())
    }

    fn submit(&mut self) -> Result<Ticket> {
        let read = |(ty, buffer): &(TensorType, Handle)| json!({ "buffer": buffer, "size": padded(ty.bytes() as u64) });
        let read: Vec<Value> = self.outputs.iter().map(read).collect();
        let details = json!({ "program": self.program, "read": read });
        let (_, bytes) = lock(&self.dawn).exchange("run", details, &[])?;
        let mut rest = &bytes[..];
        let mut tensor = |(ty, _): &(TensorType, Handle)| {
            let tensor = Tensor::from_bytes(ty, &rest[..ty.bytes()]);
            rest = &rest[padded(ty.bytes() as u64) as usize..];
            tensor.map_err(Error::device)
        };
        self.steps.push(Some(self.outputs.iter().map(&mut tensor).collect::<Result<_>>()?));
        Ok(Ticket(self.steps.len() as u64 - 1))
    }

    fn outputs(&mut self, ticket: Ticket, _wait: bool) -> Result<Option<Vec<Tensor>>> {
        Ok(self.steps[ticket.0 as usize].take())
    }

    fn memory_bytes(&self) -> u64 {
        0
    }

    fn profile(&mut self) -> Result<Vec<NodeTime>> {
        Err(Error::device("no clock"))
    }
}

impl Drop for DawnProgram {
    fn drop(&mut self) {
        let _ = lock(&self.dawn).ask("free", json!({ "program": self.program, "own": self.own }));
    }
}

/// Which part of how many to run, of `CONVOY_PART`, such as 1/2: all of Dawn's take five to ten minutes on two processors, and NVRTC's two.
pub(in crate::backend) fn part() -> (usize, usize) {
    let Ok(text) = std::env::var("CONVOY_PART") else { return (0, 1) };
    let numbers = text.split_once('/').map(|(part, parts)| (part.parse().unwrap(), parts.parse().unwrap()));
    numbers.filter(|(part, parts)| part < parts).expect("CONVOY_PART is a part and of how many, such as 1/2")
}

/// Runs the cases with the kernels for GPUs, or with `software` those that have others there.
fn check(software: bool) {
    let mut device = DawnDevice::open(software).unwrap();
    let keys = |case: &Case, software| {
        let capability = Capability { software, ..device.capability };
        dispatches(case, capability).iter().map(Dispatch::key).collect::<Vec<_>>()
    };
    let wanted = |case: &Case| !software || keys(case, true) != keys(case, false);
    let suite = Suite::new(&Selection { random: RANDOM, ..Selection::default() });
    let (part, parts) = part();
    let cases = suite.cases().iter().filter(|prepared| wanted(&prepared.case));
    let cases: Vec<&Prepared> = cases.skip(part).step_by(parts).collect();
    assert!(!cases.is_empty());
    let (mut worst, mut failures) = ((0.0, String::new()), Vec::new());
    for prepared in &cases {
        let label = prepared.case.label();
        match prepared.check(&mut device) {
            Ok(share) if share <= worst.0 => {}
            Ok(share) => worst = (share, label),
            Err(wrong) => failures.push(format!("{label}: {wrong}")),
        }
    }
    let driver = &device.info.driver;
    assert!(failures.is_empty(), "{driver}: {} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
    let kernels = if software { "software" } else { "GPUs" };
    let (share, label) = worst;
    println!(
        "Dawn on {driver}: {} cases of kernels for {kernels}, worst {share:.2} of its tolerance, {label}",
        cases.len()
    );
}

#[test]
#[ignore = "needs `tests/compilers/install dawn`"]
fn kernels_for_gpus_are_right_on_dawn() {
    check(false);
}

#[test]
#[ignore = "needs `tests/compilers/install dawn`"]
fn kernels_for_software_are_right_on_dawn() {
    check(true);
}

/// Tint, the second compiler of WGSL beside naga, on a device that only compiles.
#[test]
#[ignore = "needs `tests/compilers/install dawn`"]
fn tint_takes_every_kernel() {
    let mut devices =
        [&[][..], &[SUBGROUPS], &["shader-f16"]].map(|features| Dawn::open(&["backend=null"], features).unwrap());
    let pipelines = pipelines();
    let mut take = |dispatch: &Dispatch| {
        let device = match uses_f16(&dispatch.kernel) {
            true => 2,
            false => usize::from(uses_subgroups(&parse(&dispatch.kernel))),
        };
        let (device, kernel) = (&mut devices[device], &dispatch.kernel);
        let taken = match storage_buffers(kernel) <= Capability::gpu(0).storage_buffers {
            true => device.pipeline(dispatch).map(drop),
            false => device.module(kernel),
        };
        taken.map_err(|e| format!("{} {:?}: {e}", kernel.name, dispatch.overrides))
    };
    let problems: Vec<String> = pipelines.iter().filter_map(|dispatch| take(dispatch).err()).collect();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    println!("Tint compiles {} pipelines", pipelines.len());
    // naga takes a barrier that some invocations miss.
    let mut wrong = pipelines[0].clone();
    let source = "@compute @workgroup_size(2) fn wrong(@builtin(local_invocation_index) i: u32) {
        if (i == 0u) { return; }
        workgroupBarrier();
    }";
    wrong.kernel =
        Kernel { name: "wrong".into(), source: source.into(), entry: "wrong", bindings: &[], ..wrong.kernel };
    wrong.overrides.clear();
    let message = take(&wrong).expect_err("it is not uniform");
    assert!(message.contains("workgroupBarrier"), "{message}");
}
