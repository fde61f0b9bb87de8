//! Several devices train what one does: the CPU backend twice, a Vulkan device twice, and both together.

use std::collections::BTreeMap;

use convoy::backend::DeviceOptions;
use convoy::backend::cpu::CpuDevice;
use convoy::backend::select;
use convoy::backend::several::SeveralDevices;
use convoy::backend::{Device, Program};
use convoy::graph::partition::Parallel;
use convoy::models::{
    BuildOptions, Initial, MEAN_IMAGE, Model, OptimizerConfig, Parameter, TrainGraph, eval_graph, train_graph,
};
use convoy::ops::{Crop, IGNORE};
use convoy::rng::Philox;
use convoy::selftest::{Selection, Suite};
use convoy::tensor::Tensor;

/// Two towers, as in the paper; a normalisation that stays within them and one that does not; dropout.
const TOWERS: &str = r#"
name = "towers"
input = [3, 13, 11]
layers = [
    { kind = "conv2d", out = 12, kernel = 3, padding = 1 }, "relu", { kind = "lrn", groups = 2, alpha = 0.1 },
    { kind = "conv2d", out = 16, kernel = 3, groups = 2 }, "relu", { kind = "lrn", alpha = 0.1 },
    { kind = "max_pool2d", kernel = 3, stride = 2 },
    { kind = "conv2d", out = 14, kernel = 3, padding = 1 }, "relu",
    "flatten",
    { kind = "linear", out = 21 }, "relu", { kind = "dropout", rate = 0.5 },
    { kind = "linear", out = "classes" },
]"#;

/// Batch normalisation, a residual and a concatenation.
const BRANCHES: &str = r#"
name = "branches"
input = [3, 12, 10]
layers = [
    { kind = "conv2d", out = 9, kernel = 3, padding = 1, bias = false }, "batch_norm", { kind = "relu", name = "a" },
    { kind = "conv2d", out = 9, kernel = 3, padding = 1, bias = false }, "batch_norm",
    { kind = "add", from = "a", name = "sum" },
    { kind = "conv2d", out = 7, kernel = 1, name = "b" },
    { kind = "concat", from = ["sum", "b"] },
    { kind = "avg_pool2d", kernel = 2 },
    { kind = "conv2d", out = 10, kernel = 3, padding = 1, bias = false }, "batch_norm", "relu",
    "global_avg_pool2d", "flatten",
    { kind = "linear", out = "classes" },
]"#;

/// Odd, so that no two devices have the same share of it.
const BATCH: usize = 7;

fn model(text: &str) -> Model {
    Model::parse(text, "m").unwrap()
}

fn options(model: &Model) -> BuildOptions {
    let stored_size = Some([model.input[1] + 2, model.input[2] + 3]);
    BuildOptions { stored_size, crop: Crop::Random, flip: true, mean_image: true, ..BuildOptions::new(BATCH, 3) }
}

fn step_graph(model: &Model) -> TrainGraph {
    train_graph(model, &options(model), &OptimizerConfig::adamw(0.01), 0.1).unwrap()
}

fn cpu() -> Box<dyn Device> {
    Box::new(CpuDevice::new(Some(1)).unwrap())
}

/// The Vulkan device that the tests run shaders on.
fn vulkan() -> Box<dyn Device> {
    let selector = std::env::var("CONVOY_ADAPTER").unwrap_or_else(|_| "vulkan".into());
    select::open(&selector).unwrap().0
}

fn several(devices: Vec<Box<dyn Device>>, parallel: Parallel) -> Box<dyn Device> {
    Box::new(SeveralDevices::new(devices, parallel).unwrap())
}

/// Parameters and states by name.
type State = BTreeMap<String, Tensor>;

fn initial(graph: &TrainGraph) -> State {
    let first = |p: &Parameter| match p.name == MEAN_IMAGE {
        true => Parameter { initial: Initial::Normal(1.0), ..p.clone() }.initial(3).unwrap(),
        false => p.initial(3).unwrap(),
    };
    let parameters = graph.parameters.iter().map(|p| (p.name.clone(), first(p)));
    parameters.chain(graph.states.iter().map(|(name, ty)| (name.clone(), Tensor::zeros(ty).unwrap()))).collect()
}

/// Runs steps number `steps` from `state`; the losses, and the state after.
fn run(device: &mut dyn Device, graph: &TrainGraph, state: &State, steps: std::ops::Range<u64>) -> (Vec<f32>, State) {
    state.iter().for_each(|(name, tensor)| device.set(name, tensor).unwrap());
    let mut program = device.compile(&graph.graph, &[graph.loss, graph.logits]).unwrap();
    let mut tickets = Vec::new();
    let mut losses = Vec::new();
    for step in steps {
        write(&mut *program, graph, step);
        tickets.push(program.submit().unwrap());
        if tickets.len() > 2 {
            let outputs = program.outputs(tickets.remove(0), true).unwrap().unwrap();
            losses.push(outputs[0].as_f32().unwrap()[0]);
        }
    }
    for ticket in tickets {
        let outputs = program.outputs(ticket, true).unwrap().unwrap();
        assert_eq!(outputs[1].shape()[..], [BATCH, 3]);
        losses.push(outputs[0].as_f32().unwrap()[0]);
    }
    let after = state.keys().map(|name| (name.clone(), device.get(name).unwrap())).collect();
    (losses, after)
}

/// Pictures and labels that are a function of the step, one row without a label.
fn write(program: &mut dyn Program, graph: &TrainGraph, step: u64) {
    let random = Philox { seed: 11, stream: 9, step: step as u32 };
    let ty = &graph.graph[graph.pictures].ty;
    let bytes: Vec<u8> = (0..ty.bytes() as u32).map(|i| (random.word(i) >> 24) as u8).collect();
    let labels = (0..BATCH as u32).map(|row| if row == 2 { IGNORE } else { (row + step as u32) % 3 }).collect();
    let schedule = OptimizerConfig::adamw(0.01).schedule(3e-3, step);
    program.write(graph.pictures, &Tensor::from_bytes(ty, &bytes).unwrap()).unwrap();
    program.write(graph.labels, &Tensor::u32([BATCH], labels).unwrap()).unwrap();
    program.write(graph.counter, &Tensor::u32([4], vec![5, 0, step as u32, 0]).unwrap()).unwrap();
    program.write(graph.schedule, &Tensor::f32([4], schedule.to_vec()).unwrap()).unwrap();
}

/// Adam makes a rounding error in a gradient near 0 a whole step, so what several steps give is near in the mean.
fn near(what: &str, (losses, state): &(Vec<f32>, State), (expected, whole): &(Vec<f32>, State)) {
    assert_eq!(losses.len(), expected.len());
    for (step, (got, expected)) in losses.iter().zip(expected).enumerate() {
        assert!(
            (got - expected).abs() <= 2e-5 * expected.abs(),
            "{what}, step {step}: {losses:?}, expected {expected:?}"
        );
    }
    for (name, expected) in whole {
        let (got, expected) = (state[name].as_f32().unwrap(), expected.as_f32().unwrap());
        assert_eq!(got.len(), expected.len(), "{what}: {name}");
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| (v * v) as f64).sum::<f64>();
        let off = square(&mut got.iter().zip(expected).map(|(a, b)| a - b));
        let size = square(&mut expected.iter().copied());
        assert!(off <= 1e-6 * size + 1e-12, "{what}: {name} is off by {off:e} of {size:e}");
    }
}

fn check(devices: &dyn Fn() -> Vec<Box<dyn Device>>, what: &str) {
    for text in [TOWERS, BRANCHES] {
        let model = model(text);
        let graph = step_graph(&model);
        let first = initial(&graph);
        let one = run(&mut *cpu(), &graph, &first, 1..7);
        for parallel in [Parallel::Model, Parallel::Data] {
            let what = format!("{what}, {}, {parallel:?}", model.name);
            let together = run(&mut *several(devices(), parallel), &graph, &first, 1..7);
            near(&what, &together, &one);
            // A run goes on on one device, and the reverse.
            let (_, half) = run(&mut *several(devices(), parallel), &graph, &first, 1..4);
            let (losses, whole) = run(&mut *cpu(), &graph, &half, 4..7);
            near(&format!("{what}, then one"), &([&one.0[..3], &losses].concat(), whole), &one);
            let (_, half) = run(&mut *cpu(), &graph, &first, 1..4);
            let (losses, whole) = run(&mut *several(devices(), parallel), &graph, &half, 4..7);
            near(&format!("{what}, one before"), &([&one.0[..3], &losses].concat(), whole), &one);
        }
    }
}

#[test]
fn the_cpu_twice() {
    check(&|| vec![cpu(), cpu()], "cpu, cpu");
}

#[test]
fn three_devices() {
    check(&|| vec![cpu(), cpu(), cpu()], "cpu, cpu, cpu");
}

#[test]
fn a_vulkan_device_twice() {
    check(&|| vec![vulkan(), vulkan()], "vulkan, vulkan");
}

#[test]
fn a_vulkan_device_and_the_cpu() {
    check(&|| vec![vulkan(), cpu()], "vulkan, cpu");
}

/// Every operator, alone, cut or not: within its tolerance of the f64 reference.
#[test]
fn every_case_of_every_op_is_right() {
    let suite = Suite::new(&Selection { seed: 1, random: 6, ops: Vec::new() });
    for (count, parallel) in [(2, Parallel::Model), (3, Parallel::Model), (2, Parallel::Data)] {
        let report = suite.run(&mut *several((0..count).map(|_| cpu()).collect(), parallel), |_| {});
        assert!(report.failed == 0 && report.cases > 400, "{count} devices, {parallel:?}: {:?}", report.failures);
    }
}

/// Memory holds NaN before, and behind every buffer what must stay: no stage reads what is not there yet.
#[test]
fn poisoned_memory_changes_nothing() {
    let poisoned = || -> Box<dyn Device> {
        let selector = std::env::var("CONVOY_ADAPTER").unwrap_or_else(|_| "vulkan".into());
        select::open_with(&selector, DeviceOptions { poison: true, ..DeviceOptions::default() }).unwrap().0
    };
    for text in [TOWERS, BRANCHES] {
        let graph = step_graph(&model(text));
        let first = initial(&graph);
        for parallel in [Parallel::Model, Parallel::Data] {
            let run = |devices| run(&mut *several(devices, parallel), &graph, &first, 1..3);
            let (plain, poisoned) = (run(vec![vulkan(), vulkan()]), run(vec![poisoned(), poisoned()]));
            assert_eq!(plain.0, poisoned.0, "{parallel:?}");
        }
    }
}

/// The same command gives the same bits, whichever device is faster.
#[test]
fn steps_repeat_to_the_bit() {
    let graph = step_graph(&model(TOWERS));
    let first = initial(&graph);
    for parallel in [Parallel::Model, Parallel::Data] {
        let run = || run(&mut *several(vec![vulkan(), cpu()], parallel), &graph, &first, 1..6);
        let (a, b) = (run(), run());
        assert_eq!(a.0, b.0, "{parallel:?}");
        assert!(a.1.iter().all(|(name, tensor)| tensor.bytes() == b.1[name].bytes()), "{parallel:?}");
    }
}

/// An evaluation on the same devices uses the parameters as training left them, also where steps are still on their way.
#[test]
fn programs_share_parameters() {
    for parallel in [Parallel::Model, Parallel::Data] {
        let model = model(BRANCHES);
        let graph = step_graph(&model);
        let logits = |device: &mut dyn Device| {
            initial(&graph).iter().for_each(|(name, tensor)| device.set(name, tensor).unwrap());
            let mut training = device.compile(&graph.graph, &[graph.loss]).unwrap();
            let eval = eval_graph(&model, &options(&model)).unwrap();
            let mut evaluation = device.compile(&eval.graph, &[eval.logits]).unwrap();
            for step in 1..4 {
                write(&mut *training, &graph, step);
                training.submit().unwrap();
            }
            let ty = &eval.graph[eval.pictures].ty;
            let pictures: Vec<u8> = (0..ty.bytes()).map(|i| (i * 7 % 251) as u8).collect();
            evaluation.write(eval.pictures, &Tensor::from_bytes(ty, &pictures).unwrap()).unwrap();
            evaluation.write(eval.counter, &Tensor::u32([4], vec![0; 4]).unwrap()).unwrap();
            let ticket = evaluation.submit().unwrap();
            evaluation.outputs(ticket, true).unwrap().unwrap().remove(0)
        };
        let (one, two) = (logits(&mut *cpu()), logits(&mut *several(vec![cpu(), vulkan()], parallel)));
        for (one, two) in one.as_f32().unwrap().iter().zip(two.as_f32().unwrap()) {
            assert!((one - two).abs() <= 1e-3 * (1.0 + one.abs()), "{parallel:?}: {one} {two}");
        }
    }
}

/// Each of two devices allocates less than one alone.
#[test]
fn memory_of_each_falls() {
    let model = Model::find("four-layer").unwrap();
    let graph = train_graph(&model, &BuildOptions::new(32, 10), &OptimizerConfig::paper(), 0.0).unwrap();
    let memory = |device: &mut dyn Device| {
        initial(&graph).iter().for_each(|(name, tensor)| device.set(name, tensor).unwrap());
        device.compile(&graph.graph, &[graph.loss, graph.logits]).unwrap().memory_bytes()
    };
    let one = memory(&mut *cpu());
    for parallel in [Parallel::Model, Parallel::Data] {
        let both = memory(&mut *several(vec![cpu(), cpu()], parallel));
        assert!(both < one * 2 * 9 / 10, "{parallel:?}: {both} on two, {one} on one");
        let device = several(vec![cpu(), cpu()], parallel);
        let report = device.exchange(&graph.graph, &[graph.loss, graph.logits]).unwrap().unwrap();
        assert!(report.memory.iter().all(|memory| memory.total() < report.one_device.total() * 9 / 10), "{report:?}");
        assert!(report.bytes_per_step > 0 && report.edges.iter().all(|edge| edge.from != edge.to));
    }
}

/// A device that fails ends the step with its own error, and nothing waits for ever.
#[test]
fn a_failure_is_told() {
    let graph = step_graph(&model(TOWERS));
    for failing in 0..3 {
        let device = |number| if number == failing { Box::new(Failing(cpu())) } else { cpu() };
        let mut device = several((0..3).map(device).collect(), Parallel::Model);
        initial(&graph).iter().for_each(|(name, tensor)| device.set(name, tensor).unwrap());
        let mut program = device.compile(&graph.graph, &[graph.loss]).unwrap();
        write(&mut *program, &graph, 1);
        let ticket = program.submit().unwrap();
        let error = program.outputs(ticket, true).unwrap_err().to_string();
        assert_eq!(error, "it burns");
        assert!(device.get("conv1.weight").is_ok(), "reading parameters does not wait for a step that failed");
    }
}

/// A device whose third submit fails.
struct Failing(Box<dyn Device>);
struct FailingProgram(Box<dyn Program>, usize);

impl Device for Failing {
    fn info(&self) -> &convoy::backend::DeviceInfo {
        self.0.info()
    }
    fn probe(&mut self) -> convoy::Result<Vec<convoy::backend::Finding>> {
        self.0.probe()
    }
    fn set(&mut self, name: &str, tensor: &Tensor) -> convoy::Result<()> {
        self.0.set(name, tensor)
    }
    fn get(&mut self, name: &str) -> convoy::Result<Tensor> {
        self.0.get(name)
    }
    fn compile(
        &mut self,
        graph: &convoy::graph::Graph,
        outputs: &[convoy::graph::ValueId],
    ) -> convoy::Result<Box<dyn Program>> {
        Ok(Box::new(FailingProgram(self.0.compile(graph, outputs)?, 0)))
    }
}

impl Program for FailingProgram {
    fn write(&mut self, input: convoy::graph::ValueId, tensor: &Tensor) -> convoy::Result<()> {
        self.0.write(input, tensor)
    }
    fn submit(&mut self) -> convoy::Result<convoy::backend::Ticket> {
        self.1 += 1;
        if self.1 == 3 { Err(convoy::Error::device("it burns")) } else { self.0.submit() }
    }
    fn outputs(&mut self, ticket: convoy::backend::Ticket, wait: bool) -> convoy::Result<Option<Vec<Tensor>>> {
        self.0.outputs(ticket, wait)
    }
    fn memory_bytes(&self) -> u64 {
        self.0.memory_bytes()
    }
    fn profile(&mut self) -> convoy::Result<Vec<convoy::backend::NodeTime>> {
        self.0.profile()
    }
}
