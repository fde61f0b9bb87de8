//! The autotuner: times the kernels that a device can run the nodes of a graph by, in the shapes of this graph, and remembers the
//! fastest for the next run on the same device ([`record`]).
//!
//! A kernel is used only when its result agrees, element by element, with that of the kernel that is right beyond doubt: the default, unless
//! that is another's (NVIDIA's libraries'). What a node's kernel is once
//! chosen stays: two kernels round differently, and the same command is to give the same bits.

pub mod record;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::backend::{Choices, Device, Precision, Program};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Role, ValueId};
use crate::ops::LinearUpdate;
use crate::rng::Philox;
use crate::selftest::harness::updates;
use crate::tensor::{DType, Tensor, TensorType, zeros};
use record::Record;

/// How long a search may take that nobody asked for.
const QUICK: Duration = Duration::from_secs(2);

/// Of the default's time, what a kernel must save to be chosen: less is noise.
const GAIN: f64 = 0.03;

/// Times that each kernel is timed, after a first run that compiles it.
const ROUNDS: usize = 3;

/// A kernel that takes this many times as long as the best so far in its first timed run gets no other.
const HOPELESS: f64 = 1.5;

/// How much is searched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tune {
    /// Nothing; the default kernels run, whatever was found before.
    Off,
    /// What is not known yet, for at most two seconds, and not on software that compiles each kernel for seconds. What is not
    /// reached keeps the default from then on.
    #[default]
    Quick,
    /// Every node of the graph, also those that are known.
    Full,
}

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// Kinds of nodes that were timed, of those for which there are several kernels.
    pub timed: usize,
    /// Kinds of nodes that were to be timed.
    pub wanted: usize,
    /// Kernels that are faster than the default.
    pub gains: Vec<Gain>,
    /// Kernels that computed something else than the default, and nodes that could not be timed, in words.
    pub faults: Vec<String>,
    /// How long it took, seconds.
    pub seconds: f64,
    /// Where it is remembered.
    pub file: PathBuf,
}

/// A kernel that is faster than the default.
#[derive(Clone, PartialEq, Debug)]
pub struct Gain {
    /// Layer and operator.
    pub node: String,
    /// The kernel.
    pub kernel: String,
    /// The default's time over the kernel's.
    pub factor: f64,
}

/// Lets `device` use what was found on it before, by the record in `folder`.
///
/// # Errors
/// When there is a record and it cannot be read: the defaults are used.
pub fn recall(device: &mut dyn Device, folder: &Path) -> Result<()> {
    let record = Record::load(folder, device.info(), device.precision())?;
    device.choose(record.choices);
    Ok(())
}

/// Finds kernels for `graph` and lets `device` use them, with what was found before and recorded in `folder`; `None` where nothing was
/// to be searched.
///
/// # Errors
/// When the record cannot be read or written: the defaults are used, since the next run could not choose the same.
pub fn tune(device: &mut dyn Device, graph: &Graph, tune: Tune, folder: &Path) -> Result<Option<Tuning>> {
    device.choose(Choices::new());
    if tune == Tune::Off {
        return Ok(None);
    }
    let mut record = Record::load(folder, device.info(), device.precision())?;
    let wanted = match tune == Tune::Quick && device.info().software {
        true => Vec::new(),
        false => kinds(device, graph, |signature| tune == Tune::Full || !record.choices.contains_key(signature)),
    };
    if wanted.is_empty() {
        device.choose(record.choices);
        return Ok(None);
    }
    let file = record.save(folder)?; // before the work, lest it be in vain
    let budget = if tune == Tune::Quick { QUICK } else { Duration::MAX };
    let mut tuning = search(device, graph, &wanted, budget, &mut record.choices);
    tuning.file = file;
    record.save(folder)?;
    device.choose(record.choices);
    Ok(Some(tuning))
}

/// Nodes of one signature.
struct Kind<'a> {
    signature: String,
    /// The first.
    node: Cow<'a, Node>,
    candidates: Vec<String>,
    /// Of all.
    macs: u64,
}

/// The kinds of nodes that have several kernels and are wanted, the longest first.
fn kinds<'a>(device: &dyn Device, graph: &'a Graph, wanted: impl Fn(&str) -> bool) -> Vec<Kind<'a>> {
    let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
    for node in &graph.nodes {
        let product = LinearUpdate::product(node);
        let within = product.is_some();
        let node = product.map_or(Cow::Borrowed(node), Cow::Owned);
        let signature = graph.signature(&node);
        // What changes its inputs computes something else the next time.
        let updated = (0..node.inputs.len()).any(|input| updates(&node.op, input));
        if updated || !wanted(&signature) {
            continue;
        }
        let macs = graph.macs(&node);
        if let Some(kind) = kinds.get_mut(&signature) {
            kind.macs += macs;
            continue;
        }
        let candidates = device.candidates(graph, &node);
        // The product in an update is computed by itself only where it is a library's.
        if candidates.len() > 1 && (!within || device.trusted(&candidates) != 0) {
            kinds.insert(signature.clone(), Kind { signature, node, candidates, macs });
        }
    }
    let mut kinds: Vec<Kind> = kinds.into_values().collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.macs));
    kinds
}

/// Times the kernels of each kind until the budget is spent, and adds what is best, else the default, to `choices`.
fn search(device: &mut dyn Device, graph: &Graph, kinds: &[Kind], budget: Duration, choices: &mut Choices) -> Tuning {
    let start = Instant::now();
    // Those that others are held against are all compiled at once.
    let trusted = |kind: &Kind| device.trusted(&kind.candidates);
    let ours = kinds.iter().filter(|kind| trusted(kind) != 0);
    let ours: Choices = ours.map(|kind| (kind.signature.clone(), kind.candidates[trusted(kind)].clone())).collect();
    if !ours.is_empty() {
        device.choose(ours);
        device.prepare(graph);
    }
    let mut tuning = Tuning { wanted: kinds.len(), ..Tuning::default() };
    for kind in kinds {
        let mut best = kind.candidates[0].clone();
        // A default that is not the device's own code is not believed without a look.
        if start.elapsed() < budget || device.trusted(&kind.candidates) != 0 {
            let name = format!("{} {}", kind.node.layer, kind.node.op.name());
            let left = || start.elapsed() < budget;
            match fastest(device, graph, kind, left, &mut tuning.faults) {
                Ok(Some((kernel, factor))) => {
                    best = kernel.clone();
                    tuning.gains.push(Gain { node: name, kernel, factor });
                }
                Ok(None) => {}
                Err(error) => {
                    best = kind.candidates[device.trusted(&kind.candidates)].clone();
                    tuning.faults.push(format!("{name} was not timed: {error}"));
                }
            }
            tuning.timed += 1;
        }
        choices.insert(kind.signature.clone(), best);
    }
    tuning.seconds = start.elapsed().as_secs_f64();
    tuning
}

/// The fastest right kernel and its gain; `None` where that is the default.
fn fastest(
    device: &mut dyn Device,
    graph: &Graph,
    kind: &Kind,
    left: impl Fn() -> bool,
    faults: &mut Vec<String>,
) -> Result<Option<(String, f64)>> {
    let trial = Trial::new(device, graph, kind)?;
    let found = trial.fastest(device, &kind.candidates, left, faults);
    trial.names.iter().for_each(|name| device.remove(name));
    found
}

/// A node alone, on values made up.
struct Trial<'a> {
    kind: &'a Kind<'a>,
    graph: Graph,
    outputs: Vec<ValueId>,
    /// Of its inputs on the device.
    names: Vec<String>,
    /// Terms of the sum that makes an element of the output.
    terms: f64,
    /// To how much of itself a factor of a product may be rounded.
    rounding: f64,
}

impl<'a> Trial<'a> {
    fn new(device: &mut dyn Device, graph: &Graph, kind: &'a Kind) -> Result<Self> {
        let mut own = Graph::new();
        let (mut inputs, mut names) = (Vec::new(), Vec::new());
        for (n, ty) in graph.types(&kind.node).into_iter().enumerate() {
            let name = format!("tuning input.{n}");
            inputs.push(own.source(&name, ty.clone(), Role::Parameter)?);
            device.set(&name, &values(&ty, n as u32)?)?;
            names.push(name);
        }
        let outputs = own.apply_all("tuning", kind.node.op.clone(), &inputs)?;
        let elements: usize = outputs.iter().map(|&output| own[output].ty.shape.elements()).sum();
        let terms = graph.macs(&kind.node) as f64 / elements as f64;
        let rounding = match device.precision() {
            Precision::F32 | Precision::F16 { .. } => 0.0, // what is rounded to 16 bits is alike in all
            Precision::Tf32 => 2_f64.powi(-10),            // cut off, not rounded
            Precision::Bf16 => 2_f64.powi(-8),
        };
        Ok(Trial { kind, graph: own, outputs, names, terms, rounding })
    }

    fn fastest(
        &self,
        device: &mut dyn Device,
        candidates: &[String],
        left: impl Fn() -> bool,
        faults: &mut Vec<String>,
    ) -> Result<Option<(String, f64)>> {
        let (default, trusted) = (&candidates[0], &candidates[device.trusted(candidates)]);
        let (mut times, mut best) = (Vec::new(), f64::INFINITY);
        for kernel in candidates {
            // The two that decide when there is no time for more.
            if kernel != default && kernel != trusted && !left() {
                continue;
            }
            match self.time(device, kernel, best) {
                Ok(ms) => {
                    best = best.min(ms);
                    times.push((ms, kernel));
                }
                Err(error) if kernel == trusted => return Err(error),
                Err(error) => faults.push(self.fault(kernel, &error.to_string())),
            }
        }
        let default_ms = times.iter().find(|(_, kernel)| *kernel == default).map(|(ms, _)| *ms);
        let least = |(ms, kernel): &(f64, &String)| if *kernel == default { ms * (1.0 - GAIN) } else { *ms };
        times.sort_by(|one, other| least(one).total_cmp(&least(other)));
        let mut expected: Option<Vec<Tensor>> = None;
        for (ms, kernel) in times {
            if kernel != trusted {
                if expected.is_none() {
                    expected = Some(self.run(device, trusted)?);
                }
                let found = self.run(device, kernel);
                if let Err(error) = found.and_then(|found| self.compare(expected.as_deref().unwrap_or(&[]), &found)) {
                    faults.push(self.fault(kernel, &error.to_string()));
                    continue;
                }
            }
            return Ok((kernel != default).then(|| (kernel.clone(), default_ms.unwrap_or(ms) / ms)));
        }
        // Nothing that was timed is right.
        Ok((trusted != default).then(|| (trusted.clone(), 1.0)))
    }

    fn fault(&self, kernel: &str, error: &str) -> String {
        let node = &self.kind.node;
        format!("{} {}: {kernel} is left out: {error}", node.layer, node.op.name())
    }

    fn compile(&self, device: &mut dyn Device, kernel: &str) -> Result<Box<dyn Program>> {
        device.choose(Choices::from([(self.kind.signature.clone(), kernel.to_string())]));
        let program = device.compile(&self.graph, &self.outputs)?;
        match program.refused() {
            [] => Ok(program),
            [why, ..] => Err(Error::device(why.clone())), // another kernel ran
        }
    }

    /// Milliseconds of the fastest run.
    fn time(&self, device: &mut dyn Device, kernel: &str, best: f64) -> Result<f64> {
        let mut program = self.compile(device, kernel)?;
        let mut run = || Ok(program.profile()?.iter().map(|node| node.ms).sum::<f64>());
        run()?;
        let mut fastest: f64 = run()?;
        for _ in 1..ROUNDS {
            if fastest > HOPELESS * best {
                break;
            }
            fastest = fastest.min(run()?);
        }
        Ok(fastest)
    }

    fn run(&self, device: &mut dyn Device, kernel: &str) -> Result<Vec<Tensor>> {
        let mut program = self.compile(device, kernel)?;
        let ticket = program.submit()?;
        program.outputs(ticket, true)?.ok_or_else(|| Error::device("a step gave no outputs"))
    }

    /// Whether two kernels agree: they add the same products in another order. The products are of the order of 1, and f32 rounds a
    /// partial sum of n of them to 6e-8 * sqrt(n); not all of these errors, of one sign, are allowed for. Of factors that are rounded the
    /// sum's error is as their number's root: eight deviations are.
    fn compare(&self, expected: &[Tensor], found: &[Tensor]) -> Result<()> {
        let absolute = (1e-6 * (1.0 + self.terms)).max(8.0 * self.rounding * (1.0 + self.terms).sqrt()) as f32;
        let relative = (1e-4 + 2.0 * self.rounding) as f32; // of the result, which may be stored so too
        for (expected, found) in expected.iter().zip(found) {
            let (Some(expected), Some(found)) = (expected.as_f32(), found.as_f32()) else {
                return Err(Error::device("its output is no f32"));
            };
            let agrees = |(a, b): (&f32, &f32)| (a - b).abs() <= absolute + relative * a.abs();
            if let Some(at) = expected.par_iter().zip(found).position_first(|pair| !agrees(pair)) {
                let (a, b) = (expected[at], found[at]);
                return Err(Error::device(format!("element {at} is {b}, expected {a}")));
            }
        }
        Ok(())
    }
}

/// f32 of N(0, 1), repeated at an odd distance; zeros of another type.
fn values(ty: &TensorType, stream: u32) -> Result<Tensor> {
    if ty.dtype != DType::F32 {
        return Tensor::zeros(ty).map_err(Error::device);
    }
    let mut normal = vec![0.0; 65_521];
    Philox { seed: 1, stream, step: 0 }.normal(&mut normal);
    let mut data = zeros(ty.shape.elements()).map_err(Error::device)?;
    data.chunks_mut(normal.len()).for_each(|data| data.copy_from_slice(&normal[..data.len()]));
    Tensor::f32(ty.shape.clone(), data).map_err(Error::input)
}

#[cfg(test)]
mod tests;
