use super::*;
use crate::backend::cpu::CpuDevice;
use crate::backend::{DeviceInfo, Finding, NodeTime, Ticket};
use crate::ops::{Activation, ActivationKind};

/// The CPU backend with kernels of these names and times. The output of one called wrong is.
struct Choosy {
    cpu: CpuDevice,
    kernels: &'static [(&'static str, f64)],
    trusted: usize,
    chosen: Choices,
    compiled: usize,
}

impl Choosy {
    fn new(kernels: &'static [(&'static str, f64)]) -> Self {
        Choosy { cpu: CpuDevice::new(Some(1)).unwrap(), kernels, trusted: 0, chosen: Choices::new(), compiled: 0 }
    }
}

impl Device for Choosy {
    fn info(&self) -> &DeviceInfo {
        self.cpu.info()
    }
    fn probe(&mut self) -> Result<Vec<Finding>> {
        self.cpu.probe()
    }
    fn set(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.cpu.set(name, tensor)
    }
    fn get(&mut self, name: &str) -> Result<Tensor> {
        self.cpu.get(name)
    }
    fn candidates(&self, _: &Graph, _: &Node) -> Vec<String> {
        self.kernels.iter().map(|(name, _)| name.to_string()).collect()
    }
    fn trusted(&self, _: &[String]) -> usize {
        self.trusted
    }
    fn choose(&mut self, choices: Choices) {
        self.chosen = choices;
    }
    fn compile(&mut self, graph: &Graph, outputs: &[ValueId]) -> Result<Box<dyn Program>> {
        self.compiled += 1;
        let chosen = self.chosen.values().next().unwrap();
        let &(name, ms) = self.kernels.iter().find(|(name, _)| name == chosen).unwrap();
        if name.starts_with("refused") {
            return Err(Error::device("no room"));
        }
        Ok(Box::new(Timed { program: self.cpu.compile(graph, outputs)?, wrong: name.starts_with("wrong"), ms }))
    }
}

struct Timed {
    program: Box<dyn Program>,
    wrong: bool,
    ms: f64,
}

impl Program for Timed {
    fn write(&mut self, input: ValueId, tensor: &Tensor) -> Result<()> {
        self.program.write(input, tensor)
    }
    fn submit(&mut self) -> Result<Ticket> {
        self.program.submit()
    }
    fn outputs(&mut self, ticket: Ticket, wait: bool) -> Result<Option<Vec<Tensor>>> {
        let mut outputs = self.program.outputs(ticket, wait)?.unwrap();
        if self.wrong {
            let mut data = outputs[0].as_f32().unwrap().to_vec();
            *data.last_mut().unwrap() += 0.5;
            outputs[0] = Tensor::f32(outputs[0].shape().clone(), data).unwrap();
        }
        Ok(Some(outputs))
    }
    fn memory_bytes(&self) -> u64 {
        0
    }
    fn profile(&mut self) -> Result<Vec<NodeTime>> {
        Ok(vec![NodeTime { calls: 1, ms: self.ms }])
    }
}

fn graph() -> Graph {
    let mut graph = Graph::new();
    let x = graph.source("x", TensorType::f32([3, 5]), Role::Input).unwrap();
    graph.apply("layer", Activation { kind: ActivationKind::Relu }, &[x]).unwrap();
    graph
}

#[test]
fn the_fastest_right_kernel_is_chosen_and_remembered() {
    let home = tempfile::tempdir().unwrap();
    let mut device =
        Choosy::new(&[("plain", 9.0), ("slow", 20.0), ("good", 3.0), ("refused", 1.0), ("wrong", 2.0), ("fair", 4.0)]);
    let graph = graph();
    let node = graph.signature(&graph.nodes[0]);
    let tuning = tune(&mut device, &graph, Tune::Quick, home.path()).unwrap().unwrap();
    assert_eq!(tuning.gains, [Gain { node: "layer relu".into(), kernel: "good".into(), factor: 3.0 }]);
    assert_eq!((tuning.timed, tuning.wanted, tuning.faults.len()), (1, 1, 2), "{:?}", tuning.faults);
    assert!(tuning.faults[1].contains("wrong is left out: element 14"), "{:?}", tuning.faults);
    assert_eq!(device.chosen[&node], "good");
    // What is known is not timed again, unless asked for.
    let compiled = device.compiled;
    assert!(tune(&mut device, &graph, Tune::Quick, home.path()).unwrap().is_none());
    assert_eq!((device.compiled, device.chosen[&node].as_str()), (compiled, "good"));
    assert!(tune(&mut device, &graph, Tune::Full, home.path()).unwrap().is_some());
    tune(&mut device, &graph, Tune::Off, home.path()).unwrap();
    assert!(device.chosen.is_empty());
    recall(&mut device, home.path()).unwrap();
    assert_eq!(device.chosen[&node], "good");
}

#[test]
fn little_gain_keeps_the_default() {
    let home = tempfile::tempdir().unwrap();
    let mut device = Choosy::new(&[("plain", 9.0), ("alike", 8.9)]);
    let tuning = tune(&mut device, &graph(), Tune::Quick, home.path()).unwrap().unwrap();
    assert!(tuning.gains.is_empty());
    assert_eq!(device.chosen.values().collect::<Vec<_>>(), ["plain"]);
}

#[test]
fn without_time_the_defaults_are_kept_for_good() {
    let mut device = Choosy::new(&[("plain", 9.0), ("good", 3.0)]);
    let graph = graph();
    let (mut choices, kinds) = (Choices::new(), kinds(&device, &graph, |_| true));
    let tuning = search(&mut device, &graph, &kinds, Duration::ZERO, &mut choices);
    assert_eq!((tuning.timed, tuning.wanted), (0, 1));
    assert_eq!(choices.values().collect::<Vec<_>>(), ["plain"]);
}

/// A default of a library is used when it is right, and else what is, whether there is time or not.
#[test]
fn a_default_of_others_is_looked_at() {
    for (kernels, expected, faults) in [
        (&[("library", 3.0), ("own", 4.0)], "library", 0),
        (&[("library", 3.0), ("own", 1.0)], "own", 0),
        (&[("wrong library", 3.0), ("own", 4.0)], "own", 1),
        (&[("refused library", 3.0), ("own", 4.0)], "own", 1),
    ] {
        let graph = graph();
        for budget in [Duration::ZERO, Duration::MAX] {
            let mut device = Choosy { trusted: 1, ..Choosy::new(kernels) };
            let (mut choices, kinds) = (Choices::new(), kinds(&device, &graph, |_| true));
            let tuning = search(&mut device, &graph, &kinds, budget, &mut choices);
            assert_eq!(choices.values().collect::<Vec<_>>(), [expected], "{kernels:?}");
            assert_eq!((tuning.timed, tuning.faults.len()), (1, faults), "{:?}", tuning.faults);
        }
    }
}

#[test]
fn a_folder_that_cannot_be_written_leaves_the_defaults() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut device = Choosy::new(&[("plain", 9.0), ("good", 3.0)]);
    tune(&mut device, &graph(), Tune::Quick, &file.join("tuning")).unwrap_err();
    assert!(device.chosen.is_empty() && device.compiled == 0);
}
