//! The kernel cases on a device: what it gets wrong, and where. `convoy selftest` and the tests run this.

mod compare;
pub mod gradient;
pub mod harness;
mod kind;
mod report;

use std::collections::BTreeMap;
use std::mem::discriminant;
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use compare::compare_with;
pub use compare::{Mismatch, compare};
pub use kind::Kind;
pub use report::{Failure, OpReport, Report};

use crate::backend::{Device, Finding, wgpu};
use crate::error::Result;
use crate::ops::case::Case;
use crate::ops::draw::{self, Draw, Generator, shrink};
use crate::ops::tolerance::Expected;
use crate::ops::{Array, Op};
use crate::tensor::Tensor;
use gradient::Rule;
use harness::OneOp;

/// Steps tried to make a failing random case smaller.
const SHRINK_ATTEMPTS: usize = 200;

/// Bytes of a binding that every WebGPU device offers.
const DEFAULT_BINDING: u64 = 128 << 20;

/// Which cases to run.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Of the inputs' values and of the random cases.
    pub seed: u64,
    /// Random cases of each op, beside the fixed ones.
    pub random: u32,
    /// Names of the ops; empty for all.
    pub ops: Vec<String>,
}

impl Default for Selection {
    fn default() -> Self {
        Selection { seed: 1, random: 24, ops: Vec::new() }
    }
}

/// Where a random case comes from.
struct Random {
    generator: Generator,
    /// That the case took.
    choices: Vec<u32>,
    /// Among those of its op.
    number: u32,
}

/// A case with its inputs' values and what the reference makes of them.
pub struct Prepared {
    /// The case.
    pub case: Case,
    /// Where a random case comes from.
    random: Option<Random>,
    inputs: Vec<Tensor>,
    expected: Expected,
}

impl Prepared {
    /// Evaluates the reference on a case.
    pub fn of(case: Case, seed: u64) -> Self {
        Self::new(case, seed, None)
    }

    fn new(case: Case, seed: u64, random: Option<Random>) -> Self {
        let inputs = case.tensors(seed);
        Self::with(case, inputs, random)
    }

    fn with(case: Case, inputs: Vec<Tensor>, random: Option<Random>) -> Self {
        let expected = Expected::of(&case, &inputs.iter().map(Array::from).collect::<Vec<_>>());
        Prepared { case, random, inputs, expected }
    }

    /// Whether it is a random case.
    pub fn is_random(&self) -> bool {
        self.random.is_some()
    }

    /// The outputs of the case on `device`.
    ///
    /// # Errors
    /// The step failed, or broke a promise: in words.
    pub fn run(&self, device: &mut dyn Device) -> Result<Vec<Tensor>, String> {
        harness::run_case(device, &self.case, &self.inputs)
    }

    /// The same case with the values that it has on another kind of device, if they are others.
    fn on(&self, kind: &Kind) -> Option<Prepared> {
        kind.rounds().then(|| {
            let inputs = self.inputs.iter().map(|input| kind.values(input.clone())).collect();
            let mut other = Self::with(self.case.clone(), inputs, None);
            other.expected.rounded(kind.rounding());
            other
        })
    }

    /// [`Prepared::check`] on such a kind of device.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_on(&self, kind: &Kind, device: &mut dyn Device) -> Result<f64, Wrong> {
        self.on(kind).as_ref().unwrap_or(self).check(device)
    }

    /// Runs the case on `device`: the largest error as a share of its tolerance.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, device: &mut dyn Device) -> Result<f64, Wrong> {
        let found = self.run(device).map_err(Wrong::Step)?;
        self.judge(&found, device)
    }

    /// The largest error of the case's outputs, `found` on `device`, as a share of its tolerance.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(&self, found: &[Tensor], device: &dyn Device) -> Result<f64, Wrong> {
        // What NVIDIA's libraries promise of a ReLU is max(x, 0), which is 0 where x is no number.
        let has_relu = matches!(&self.case.op, Op::Biased(biased) if biased.relu);
        let drops_nan = has_relu && self.is_of_library(device);
        compare_with(found, &self.expected, drops_nan).map_err(Wrong::Element)
    }

    /// Whether NVIDIA's libraries compute it on `device`.
    fn is_of_library(&self, device: &dyn Device) -> bool {
        let types: Vec<_> = self.inputs.iter().map(Tensor::ty).collect();
        let one = |device: &dyn Device| {
            let OneOp { graph, .. } = OneOp::new(&self.case.label(), &self.case.op, &types).ok()?;
            Some(device.trusted(&device.candidates(&graph, &graph.nodes[0])) != 0)
        };
        device.info().backend == "cuda" && one(device).unwrap_or(false)
    }
}

/// What can be wrong with a case.
#[derive(Debug)]
pub enum Wrong {
    /// The step failed, or broke a promise.
    Step(String),
    /// The numbers.
    Element(Box<Mismatch>),
}

impl Wrong {
    /// The largest error as a share of its tolerance, where there are numbers.
    fn share(&self) -> f64 {
        match self {
            Wrong::Step(_) => 0.0,
            Wrong::Element(mismatch) => mismatch.worst,
        }
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wrong::Step(message) => f.write_str(message),
            Wrong::Element(mismatch) => mismatch.fmt(f),
        }
    }
}

/// The selected cases, with the reference's results: prepared once for any number of devices.
pub struct Suite {
    seed: u64,
    cases: Vec<Prepared>,
}

impl Suite {
    /// Evaluates the reference on all cases, on all processors.
    pub fn new(selection: &Selection) -> Self {
        let Selection { seed, random, ops } = selection;
        let selected = |case: &Case| ops.is_empty() || ops.iter().any(|name| name == case.op.name());
        let mut cases: Vec<_> = Op::all_cases().into_iter().map(|case| (case, None)).collect();
        let drawn = draw::cases(*seed, *random).zip((0..*random).cycle());
        cases.extend(
            drawn.map(|((generator, case, choices), number)| (case, Some(Random { generator, choices, number }))),
        );
        cases.retain(|(case, _)| selected(case));
        let cases = cases.into_par_iter().map(|(case, random)| Prepared::new(case, *seed, random)).collect();
        Suite { seed: *seed, cases }
    }

    /// The cases.
    pub fn cases(&self) -> &[Prepared] {
        &self.cases
    }

    /// Checks `device` itself, then runs every case on it; `progress` hears the number of cases done. What fails is in the report.
    pub fn run(&self, device: &mut dyn Device, progress: impl Fn(usize)) -> Report {
        let failed = |error| {
            vec![Finding { probe: "device", right: false, avoided: false, found: format!("its checks fail: {error}") }]
        };
        let findings = device.probe().unwrap_or_else(failed);
        let version = env!("CARGO_PKG_VERSION").to_string();
        let (device_info, ops, failures) = (device.info().clone(), Vec::new(), Vec::new());
        let mut report = Report {
            version,
            device: device_info,
            findings,
            seed: self.seed,
            cases: 0,
            of_libraries: 0,
            failed: 0,
            ops,
            failures,
        };
        self.add(&mut report, device, &Kind::plain(), progress);
        report
    }

    /// Runs the cases on another kind of the device, and adds what comes out to the report.
    pub fn add(&self, report: &mut Report, device: &mut dyn Device, kind: &Kind, progress: impl Fn(usize)) {
        for (done, prepared) in self.cases.iter().enumerate().filter(|(_, prepared)| kind.takes(&prepared.case)) {
            progress(done);
            let other = prepared.on(kind);
            let prepared = other.as_ref().unwrap_or(prepared);
            let name = prepared.case.op.name();
            let start = Instant::now();
            let result = prepared.check(device);
            let at = report.ops.binary_search_by(|op| op.op.as_str().cmp(name)).unwrap_or_else(|at| {
                report.ops.insert(at, OpReport::new(name));
                at
            });
            let op = &mut report.ops[at];
            op.cases += 1;
            report.cases += 1;
            report.of_libraries += usize::from(prepared.is_of_library(device));
            op.ms += start.elapsed().as_secs_f64() * 1e3;
            let share = result.as_ref().map_or_else(Wrong::share, |share| *share);
            if share > op.worst_error {
                (op.worst_error, op.worst_case) = (share, of_kind(&prepared.case.name, kind));
            }
            if let Err(wrong) = result {
                op.failed += 1;
                report.failed += 1;
                // A few of an op say what all do.
                if op.failed <= 3 {
                    let failure = self.failure(device, prepared, wrong);
                    report.failures.push(Failure { case: of_kind(&failure.case, kind), ..failure });
                }
            }
        }
    }

    /// The command that runs a case again, among others of its op.
    fn again(&self, prepared: &Prepared, random: u32) -> String {
        format!("convoy selftest --op {} --seed {} --random {random}", prepared.case.op.name(), self.seed)
    }

    /// Tells of a failure, by the smallest case found that fails too.
    fn failure(&self, device: &mut dyn Device, prepared: &Prepared, wrong: Wrong) -> Failure {
        let Some(Random { generator, choices, number }) = &prepared.random else {
            return Failure::new(&prepared.case, wrong, self.again(prepared, 0));
        };
        let again = self.again(prepared, number + 1);
        // A device keeps parameters by a case's label: each attempt has its own.
        let mut attempts = 0;
        let mut smaller = |choices: &[u32]| {
            attempts += 1;
            let case = Draw::replay(choices.to_vec()).case(*generator).0;
            Prepared::new(case.named(format!("{}, made smaller {attempts}", prepared.case.name)), self.seed, None)
        };
        // A refusal of the smaller case is another fault than wrong numbers.
        let alike = |found: Result<f64, Wrong>| found.err().filter(|found| discriminant(found) == discriminant(&wrong));
        let fails = |choices: &[u32]| alike(smaller(choices).check(device)).is_some();
        let choices = shrink(choices.clone(), SHRINK_ATTEMPTS, fails);
        let smallest = smaller(&choices);
        match alike(smallest.check(device)) {
            Some(wrong) => Failure::new(&smallest.case, wrong, again),
            None => Failure::new(&prepared.case, wrong, again), // nothing smaller failed, or not every time
        }
    }
}

/// A case's name, with the kind of device.
fn of_kind(case: &str, kind: &Kind) -> String {
    if kind.name.is_empty() { case.to_string() } else { format!("{case}, {}", kind.name) }
}

/// What the suite has of an op: a row of `convoy selftest --list`.
#[derive(Clone, Debug, Serialize)]
pub struct Coverage {
    /// Name of the op.
    pub op: String,
    /// Fixed cases, which every backend runs.
    pub cases: usize,
    /// Random cases.
    pub random: usize,
    /// Cases whose gradient is checked by central differences; `None` for an op without a gradient rule.
    pub gradient: Option<usize>,
    /// How many of the cases, fixed and random, each backend has kernels for.
    pub backends: BTreeMap<&'static str, usize>,
}

/// A row for each op of THE list, whether it has cases or not.
///
/// # Panics
/// When a case is of an op whose name is not on the list.
pub fn coverage(selection: &Selection) -> Vec<Coverage> {
    let row = |&name: &&str| Coverage {
        op: name.to_string(),
        cases: 0,
        random: 0,
        gradient: None,
        backends: BTreeMap::from([("wgsl", 0), ("cpu", 0), ("cuda", 0)]),
    };
    let mut rows: Vec<Coverage> = Op::NAMES.iter().map(row).collect();
    let drawn = draw::cases(selection.seed, selection.random).map(|(_, case, _)| (case, true));
    for (case, random) in Op::all_cases().into_iter().map(|case| (case, false)).chain(drawn) {
        let name = case.op.name();
        let row = rows.iter_mut().find(|row| row.op == name);
        let row = row.unwrap_or_else(|| panic!("{name} is missing among the names of THE list"));
        // The CPU refuses nothing; that it has the op, `ops!` asks the compiler. CUDA runs the kernels of WGSL.
        let wgsl = wgpu::has_kernels(&case, DEFAULT_BINDING);
        let has = [("wgsl", wgsl), ("cpu", true), ("cuda", wgsl)];
        has.into_iter().filter(|(_, has)| *has).for_each(|(backend, _)| *row.backends.entry(backend).or_default() += 1);
        if random {
            row.random += 1;
            continue;
        }
        row.cases += 1;
        match gradient::rule(&case) {
            Ok(Rule::Checked) => *row.gradient.get_or_insert(0) += 1,
            Ok(Rule::LeftOut) => *row.gradient.get_or_insert(0) += 0,
            Ok(Rule::None) | Err(_) => {}
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuDevice;
    use crate::backend::{DeviceInfo, NodeTime, Program, Ticket};
    use crate::graph::{Graph, ValueId};
    use crate::tensor::Data;

    /// The CPU backend, but for the first element of every output.
    struct Broken(CpuDevice);

    struct BrokenProgram(Box<dyn Program>);

    impl Device for Broken {
        fn info(&self) -> &DeviceInfo {
            self.0.info()
        }
        fn probe(&mut self) -> Result<Vec<Finding>> {
            self.0.probe()
        }
        fn set(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
            self.0.set(name, tensor)
        }
        fn get(&mut self, name: &str) -> Result<Tensor> {
            self.0.get(name)
        }
        fn compile(&mut self, graph: &Graph, outputs: &[ValueId]) -> Result<Box<dyn Program>> {
            Ok(Box::new(BrokenProgram(self.0.compile(graph, outputs)?)))
        }
    }

    impl Program for BrokenProgram {
        fn write(&mut self, input: ValueId, tensor: &Tensor) -> Result<()> {
            self.0.write(input, tensor)
        }
        fn submit(&mut self) -> Result<Ticket> {
            self.0.submit()
        }
        fn outputs(&mut self, ticket: Ticket, wait: bool) -> Result<Option<Vec<Tensor>>> {
            let mut outputs = self.0.outputs(ticket, wait)?.expect("waited for");
            if let Data::F32(values) = outputs[0].data() {
                let mut values = values.clone();
                values[0] = if values[0].is_finite() { values[0] * 1.5 + 1.0 } else { 0.0 };
                outputs[0] = Tensor::f32(outputs[0].shape().clone(), values).map_err(crate::Error::device)?;
            }
            Ok(Some(outputs))
        }
        fn memory_bytes(&self) -> u64 {
            self.0.memory_bytes()
        }
        fn profile(&mut self) -> Result<Vec<NodeTime>> {
            self.0.profile()
        }
    }

    /// The report names the first bad element of a smaller case, for ops with parameters on the device too.
    #[test]
    fn a_wrong_device_is_convicted() {
        for op in ["adam", "sgd", "lrn_backward"] {
            let suite = Suite::new(&Selection { random: 3, ops: vec![op.into()], ..Selection::default() });
            let mut device = Broken(CpuDevice::new(Some(1)).unwrap());
            let report = suite.run(&mut device, |_| {});
            assert_eq!(report.failed, report.cases, "{op}");
            let random = Suite { seed: 1, cases: suite.cases.into_iter().filter(Prepared::is_random).collect() };
            for failure in random.run(&mut device, |_| {}).failures {
                let element = failure.element.as_ref().unwrap_or_else(|| panic!("{failure}"));
                assert!(failure.case.contains("made smaller"), "{failure}");
                assert!(element.index.iter().all(|&at| at == 0), "{failure}");
                assert!(failure.inputs[0].starts_with("[1"), "{failure}");
            }
        }
    }
}
