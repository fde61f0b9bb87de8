//! cuDNN, NVIDIA's convolutions, by its graphs: a convolution with bias and ReLU in it, and both of its gradients.
//!
//! `descriptor` is the language in which it is spoken to. The numbers are those of cudnn_graph.h, which are the same in every cuDNN since 9.0.

mod descriptor;

use std::collections::{HashMap, HashSet};
use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, PoisonError};

use libloading::Library;

use super::driver::Stream;
use crate::backend::Precision;
use crate::error::{Error, Result};
use descriptor::{Descriptor, Functions, Handle, Kind, Raw};

// cudnnBackendDescriptorType_t.
const POINTWISE: c_int = 0;
const CONVOLUTION: c_int = 1;
const ENGINE: c_int = 2;
const ENGINE_CONFIG: c_int = 3;
const HEURISTIC: c_int = 4;
const PLAN: c_int = 5;
const CONVOLUTION_FORWARD: c_int = 10;
const CONVOLUTION_BACKWARD_FILTER: c_int = 11;
const CONVOLUTION_BACKWARD_DATA: c_int = 12;
const POINTWISE_OPERATION: c_int = 13;
const OPERATION_GRAPH: c_int = 15;
const VARIANT_PACK: c_int = 16;
const TENSOR: c_int = 17;

// cudnnDataType_t.
const FLOAT: c_int = 0;
const BFLOAT16: c_int = 9;
/// cudnnConvolutionMode_t CUDNN_CROSS_CORRELATION.
const CROSS_CORRELATION: c_int = 1;
// cudnnPointwiseMode_t.
const ADD: c_int = 0;
const RELU_FWD: c_int = 100;
/// cudnnBackendHeurMode_t: by a model of the GPUs, by a larger one, and what always works.
const HEURISTIC_MODES: [c_int; 3] = [3, 1, 2];

// cudnnBackendNumericalNote_t, of an engine.
const TENSOR_CORE: c_int = 0;
const STRICT_NAN_PROPAGATION: c_int = 9;

/// Ways of a convolution that are looked at.
const MOST_WAYS: usize = 64;

/// The library, ready.
pub(super) struct Cudnn {
    functions: Arc<Functions>,
    /// None in tests of plans for a GPU that is not there.
    handle: Option<Mutex<Guarded>>,
    /// Description of such a GPU.
    described: Option<Descriptor>,
    /// What a convolution may take beside its tensors, bytes.
    most_workspace: u64,
    /// The first ways of the convolutions that were asked for last.
    known: Mutex<HashMap<Key, Vec<Arc<Plan>>>>,
}

/// A convolution, and the name of its precision.
type Key = (Convolution, &'static str);

/// Convolutions whose ways are remembered.
const MOST_KNOWN: usize = 256;

struct Guarded(Handle);

// SAFETY: a handle may be used by any thread, by one at a time.
unsafe impl Send for Guarded {}

/// Which of a convolution's three tensors is computed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Pass {
    Forward,
    BackwardInput,
    BackwardWeight,
}

/// A convolution.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Convolution {
    pub pass: Pass,
    pub x: [usize; 4],
    /// [O, I / groups, R, S].
    pub w: [usize; 4],
    pub y: [usize; 4],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
    /// Whether a bias is added in the forward pass, and whether ReLU follows.
    pub epilogue: Option<bool>,
    /// Whether channels lie together, as NHWC, and not apart. The extents above are in the same order in any case.
    pub nhwc: bool,
}

impl Convolution {
    /// Extents of x, w and y.
    pub fn tensors(&self) -> [[usize; 4]; 3] {
        [self.x, self.w, self.y]
    }

    /// Extents of the bias.
    pub fn bias(&self) -> [usize; 4] {
        [1, self.y[1], 1, 1]
    }
}

/// A convolution, ready to run.
pub(super) struct Plan {
    plan: Descriptor,
    pub workspace: u64,
    _config: Descriptor,
    /// What it was made of.
    _parts: Arc<Vec<Descriptor>>,
}

// SAFETY: nothing in it changes once it is made, and it is run by who holds the library's handle.
unsafe impl Send for Plan {}
// SAFETY: as above.
unsafe impl Sync for Plan {}

// The tensors' numbers in a graph.
const X: i64 = 1;
const W: i64 = 2;
const Y: i64 = 3;
const BIAS: i64 = 4;
const SUMS: i64 = 5;
const BIASED: i64 = 6;

impl Cudnn {
    /// The library for the context that is bound.
    pub fn open(library: &'static Library, most_workspace: u64) -> Result<Cudnn> {
        let functions = Functions::of(library).map_err(|e| Error::device(format!("NVIDIA's cuDNN is too old: {e}")))?;
        let mut handle = null_mut();
        // SAFETY: a place for the handle.
        let code = unsafe { (functions.cudnnCreate)(&mut handle) };
        functions.check(code)?;
        Ok(Cudnn {
            functions: Arc::new(functions),
            handle: Some(Mutex::new(Guarded(handle))),
            described: None,
            most_workspace,
            known: Mutex::default(),
        })
    }

    /// Such as 9.28.1.
    pub fn version(&self) -> String {
        // SAFETY: it asks for nothing.
        let version = unsafe { (self.functions.cudnnGetVersion)() };
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    /// The way number `way` (0 is what the library thinks best) to compute a convolution in numbers of this precision, the same each time;
    /// `None` where there are fewer. The tensors, the bias too, are f32, with [`Precision::Bf16`] bfloat16.
    pub fn plan(&self, convolution: &Convolution, precision: Precision, way: usize) -> Result<Option<Arc<Plan>>> {
        let key = (convolution.clone(), precision.name());
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = known().get(&key).and_then(|plans| plans.get(way)) {
            return Ok(Some(plan.clone()));
        }
        let plans: Vec<_> = self.plans(convolution, precision, way + 1)?.into_iter().map(Arc::new).collect();
        let plan = plans.get(way).cloned();
        let mut known = known();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(key, plans);
        Ok(plan)
    }

    /// The first ways, at most so many.
    fn plans(&self, convolution: &Convolution, precision: Precision, most: usize) -> Result<Vec<Plan>> {
        // What the library has no convolution for it does not take.
        let Ok((operations, parts)) = self.operations(convolution, precision) else { return Ok(Vec::new()) };
        let graph = self.new_descriptor(OPERATION_GRAPH)?;
        self.set_handle(&graph, 800)?;
        let raws: Vec<Raw> = operations.iter().map(|operation| operation.raw).collect();
        graph.set(801, Kind::Descriptor, &raws)?;
        if graph.finalize().is_err() {
            return Ok(Vec::new());
        }
        // What the library thinks best first, then all that there is; of each engine the first configuration.
        let proposed = HEURISTIC_MODES.into_iter().map(|mode| self.configs(&graph, mode));
        let (mut seen, mut found) = (HashSet::new(), Vec::new());
        let rest = std::iter::once_with(|| self.all_engines(&graph));
        'search: for configs in proposed.chain(rest) {
            for config in configs? {
                let engine = self.engine(&config)?;
                if !self.is_fit(&engine, precision)? || !seen.insert(number(&engine)?) {
                    continue;
                }
                let Some((plan, workspace)) = self.plan_of(&config)? else { continue };
                found.push((plan, workspace, config));
                if found.len() == most {
                    break 'search;
                }
            }
        }
        let parts: Arc<Vec<Descriptor>> = Arc::new(parts.into_iter().chain([graph]).chain(operations).collect());
        let plan = |(plan, workspace, config)| Plan { plan, workspace, _config: config, _parts: parts.clone() };
        Ok(found.into_iter().map(plan).collect())
    }

    /// The engine of a configuration.
    fn engine(&self, config: &Descriptor) -> Result<Descriptor> {
        let engine = self.new_descriptor(ENGINE)?;
        config.get(300, Kind::Descriptor, &mut [engine.raw])?;
        Ok(engine)
    }

    /// Each engine that takes the graph, as it is configured when nothing is said.
    fn all_engines(&self, graph: &Descriptor) -> Result<Vec<Descriptor>> {
        let mut count = [0_i64];
        graph.get(802, Kind::Int64, &mut count)?;
        let config = |number: i64| {
            let engine = self.new_descriptor(ENGINE)?;
            engine.set(1300, Kind::Descriptor, &[graph.raw])?;
            engine.set(1301, Kind::Int64, &[number])?;
            if let Some(described) = &self.described {
                engine.set(1307, Kind::Descriptor, &[described.raw])?;
            }
            engine.finalize()?;
            let config = self.new_descriptor(ENGINE_CONFIG)?;
            config.set(300, Kind::Descriptor, &[engine.raw])?;
            config.finalize()?;
            Ok::<_, Error>(config)
        };
        // One that is refused does not take it.
        Ok((0..count[0]).filter_map(|number| config(number).ok()).collect())
    }

    fn new_descriptor(&self, of: c_int) -> Result<Descriptor> {
        Descriptor::new(&self.functions, of)
    }

    /// The operations, in order, and what they are described by.
    fn operations(&self, of: &Convolution, precision: Precision) -> Result<(Vec<Descriptor>, Vec<Descriptor>)> {
        let convolution = self.new_descriptor(CONVOLUTION)?;
        convolution.set(100, Kind::DataType, &[FLOAT])?;
        convolution.set(101, Kind::ConvolutionMode, &[CROSS_CORRELATION])?;
        convolution.set(106, Kind::Int64, &[2_i64])?;
        for (attribute, extents) in [(102, of.dilation), (103, of.stride), (104, of.padding), (105, of.padding)] {
            convolution.set(attribute, Kind::Int64, &extents.map(|n| n as i64))?;
        }
        convolution.finalize()?;
        let stored = if precision == Precision::Bf16 { BFLOAT16 } else { FLOAT };
        let tensor = |id, extents| self.tensor(id, extents, of.nhwc, Some(stored));
        let between = |id| self.tensor(id, of.y, of.nhwc, None);
        let (x, w, y) = (tensor(X, of.x)?, tensor(W, of.w)?, tensor(Y, of.y)?);
        let fused = of.epilogue.filter(|_| of.pass == Pass::Forward);
        let sums = fused.map(|_| between(SUMS)).transpose()?;
        let (kind, [alpha, beta, by], [at_w, at_x, at_y]) = match of.pass {
            Pass::Forward => (CONVOLUTION_FORWARD, [700, 701, 702], [703, 704, 705]),
            Pass::BackwardInput => (CONVOLUTION_BACKWARD_DATA, [706, 707, 708], [709, 710, 711]),
            Pass::BackwardWeight => (CONVOLUTION_BACKWARD_FILTER, [712, 713, 714], [715, 716, 717]),
        };
        let operation = self.new_descriptor(kind)?;
        operation.set(alpha, Kind::Float, &[1.0_f32])?;
        operation.set(beta, Kind::Float, &[0.0_f32])?;
        let made = sums.as_ref().unwrap_or(&y);
        for (attribute, descriptor) in [(by, &convolution), (at_w, &w), (at_x, &x), (at_y, made)] {
            operation.set(attribute, Kind::Descriptor, &[descriptor.raw])?;
        }
        operation.finalize()?;
        let (mut operations, mut parts) = (vec![operation], vec![convolution, x, w]);
        if let (Some(relu), Some(sums)) = (fused, sums) {
            let bias = tensor(BIAS, of.bias())?;
            let biased = relu.then(|| between(BIASED)).transpose()?;
            let output = biased.as_ref().unwrap_or(&y);
            let [add, how] = self.pointwise(ADD, &[(751, &sums), (752, &bias), (753, output)])?;
            operations.push(add);
            parts.extend([sums, how, bias]);
            if let Some(biased) = biased {
                let [relu, how] = self.pointwise(RELU_FWD, &[(751, &biased), (753, &y)])?;
                operations.push(relu);
                parts.extend([biased, how]);
            }
        }
        parts.push(y);
        Ok((operations, parts))
    }

    /// An operation on each element, and its description.
    fn pointwise(&self, mode: c_int, tensors: &[(c_int, &Descriptor)]) -> Result<[Descriptor; 2]> {
        let pointwise = self.new_descriptor(POINTWISE)?;
        pointwise.set(0, Kind::PointwiseMode, &[mode])?;
        pointwise.set(1, Kind::DataType, &[FLOAT])?;
        pointwise.finalize()?;
        let operation = self.new_descriptor(POINTWISE_OPERATION)?;
        operation.set(750, Kind::Descriptor, &[pointwise.raw])?;
        for (attribute, tensor) in tensors {
            operation.set(*attribute, Kind::Descriptor, &[tensor.raw])?;
        }
        operation.finalize()?;
        Ok([operation, pointwise])
    }

    /// A tensor that is stored as this type; as none on the way from an operation to the next.
    fn tensor(&self, id: i64, extents: [usize; 4], nhwc: bool, stored: Option<c_int>) -> Result<Descriptor> {
        let [_, c, h, w] = extents;
        let strides = if nhwc { [c * h * w, 1, w * c, c] } else { [c * h * w, h * w, w, 1] };
        let tensor = self.new_descriptor(TENSOR)?;
        tensor.set(900, Kind::Int64, &[16_i64])?; // bytes that it is aligned to
        tensor.set(901, Kind::DataType, &[stored.unwrap_or(FLOAT)])?;
        tensor.set(902, Kind::Int64, &extents.map(|n| n as i64))?;
        tensor.set(903, Kind::Int64, &strides.map(|n| n as i64))?;
        tensor.set(906, Kind::Int64, &[id])?;
        tensor.set(907, Kind::Boolean, &[stored.is_none()])?;
        tensor.finalize()?;
        Ok(tensor)
    }

    /// What a mode of the heuristics proposes; nothing where it knows nothing of the graph.
    fn configs(&self, graph: &Descriptor, mode: c_int) -> Result<Vec<Descriptor>> {
        let heuristic = self.new_descriptor(HEURISTIC)?;
        heuristic.set(201, Kind::Descriptor, &[graph.raw])?;
        heuristic.set(200, Kind::HeuristicMode, &[mode])?;
        if let Some(described) = &self.described {
            heuristic.set(204, Kind::Descriptor, &[described.raw])?;
        }
        if heuristic.finalize().is_err() {
            return Ok(Vec::new());
        }
        let mut configs = (0..MOST_WAYS).map(|_| self.new_descriptor(ENGINE_CONFIG)).collect::<Result<Vec<_>>>()?;
        let mut raws: Vec<Raw> = configs.iter().map(|config| config.raw).collect();
        let count = heuristic.get(202, Kind::Descriptor, &mut raws)?;
        configs.truncate(count);
        Ok(configs)
    }

    /// Whether an engine computes what is asked for: no numbers rounded that must not be, the same result each time.
    fn is_fit(&self, engine: &Descriptor, precision: Precision) -> Result<bool> {
        let mut notes = [0 as c_int; 32];
        let count = engine.get(1303, Kind::NumericalNote, &mut notes)?;
        Ok(notes[..count].iter().all(|&note| match note {
            TENSOR_CORE => matches!(precision, Precision::Tf32 | Precision::Bf16),
            // The others are FFT and Winograd, inputs or sums of fewer bits, and a result that changes from run to run.
            note => note == STRICT_NAN_PROPAGATION,
        }))
    }

    /// None for a configuration that the library cannot run after all, or that takes too much memory.
    fn plan_of(&self, config: &Descriptor) -> Result<Option<(Descriptor, u64)>> {
        let plan = self.new_descriptor(PLAN)?;
        self.set_handle(&plan, 400)?;
        plan.set(401, Kind::Descriptor, &[config.raw])?;
        if let Some(described) = &self.described {
            plan.set(407, Kind::Descriptor, &[described.raw])?;
        }
        if plan.finalize().is_err() {
            return Ok(None);
        }
        let mut workspace = [0_i64];
        plan.get(402, Kind::Int64, &mut workspace)?;
        let workspace = workspace[0].max(0) as u64;
        Ok((workspace <= self.most_workspace).then_some((plan, workspace)))
    }

    fn set_handle(&self, descriptor: &Descriptor, attribute: c_int) -> Result<()> {
        let Some(handle) = &self.handle else { return Ok(()) };
        descriptor.set(attribute, Kind::Handle, &[handle.lock().unwrap_or_else(PoisonError::into_inner).0])
    }

    /// Puts a convolution on a stream: addresses of x, w, y, and of the bias where there is one, and of as much memory as it wants.
    pub fn run(
        &self,
        plan: &Plan,
        [x, w, y]: [u64; 3],
        bias: Option<u64>,
        workspace: u64,
        stream: &Stream,
    ) -> Result<()> {
        let Some(handle) = &self.handle else { return Err(Error::device("cuDNN has no GPU to run on")) };
        let pack = self.new_descriptor(VARIANT_PACK)?;
        let tensors = [(X, x), (W, w), (Y, y)].into_iter().chain(bias.map(|bias| (BIAS, bias)));
        let (ids, addresses): (Vec<i64>, Vec<u64>) = tensors.unzip();
        pack.set(1000, Kind::Int64, &ids)?;
        pack.set(1001, Kind::VoidPointer, &addresses)?;
        pack.set(1003, Kind::VoidPointer, &[workspace])?;
        pack.finalize()?;
        let handle = handle.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller's program has the tensors there.
        self.functions.check(unsafe { (self.functions.cudnnSetStream)(handle.0, stream.raw().cast()) })?;
        // SAFETY: as above.
        self.functions.check(unsafe { (self.functions.cudnnBackendExecute)(handle.0, plan.plan.raw, pack.raw) })
    }
}

/// An engine's number.
fn number(engine: &Descriptor) -> Result<i64> {
    let mut number = [0_i64];
    engine.get(1301, Kind::Int64, &mut number)?;
    Ok(number[0])
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        if let Some(handle) = &mut self.handle {
            // SAFETY: created above, destroyed once.
            unsafe { (self.functions.cudnnDestroy)(handle.get_mut().unwrap_or_else(PoisonError::into_inner).0) };
        }
    }
}

#[cfg(test)]
mod tests;
