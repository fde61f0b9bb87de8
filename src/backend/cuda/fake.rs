//! The backend on stand-ins of NVIDIA's libraries, which a C++ compiler makes of `tests/cuda`: the same host code and the same kernels, on
//! the processor.

#[path = "../../../tests/common/training.rs"]
#[allow(dead_code)] // here only the losses are compared
mod training;

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::Library;
use xxhash_rust::xxh3::xxh3_64;

use super::CudaDevice;
use super::adapter::adapters;
use super::casts::{Casts, Element};
use super::device::Shared;
use super::driver::Memory;
use crate::backend::cpu::CpuDevice;
use crate::backend::several::SeveralDevices;
use crate::backend::{Device, DeviceOptions, Precision};
use crate::graph::Node;
use crate::graph::partition::Parallel;
use crate::models::{BuildOptions, Model, OptimizerConfig, eval_graph};
use crate::ops::{Array, Op};
use crate::selftest::harness::OneOp;
use crate::tensor::Tensor;
use crate::tune::{Tune, tune};

const HOST: &str = include_str!("../../../tests/cuda/host.h");
const DRIVER: &str = include_str!("../../../tests/cuda/driver.cpp");
const COMPILER: &str = include_str!("../../../tests/cuda/nvrtc.cpp");
const CUBLASLT: &str = include_str!("../../../tests/cuda/cublaslt.cpp");
const CUDNN: &str = include_str!("../../../tests/cuda/cudnn.cpp");

/// The stand-ins, for one test at a time.
pub(super) struct Fake {
    /// What they compiled.
    kernels: PathBuf,
    log: unsafe extern "C" fn() -> *const c_char,
    order: unsafe extern "C" fn(c_uint) -> c_int,
    refusals: unsafe extern "C" fn(c_int) -> c_int,
}

/// What the stand-ins of the driver and of the other libraries are called.
const NAMES: [&str; 4] = ["libcuda.so.1", "libnvrtc.so.13", "libcublasLt.so.13", "libcudnn.so.9"];

/// The folder of the stand-ins, which are built; `None`, and says so, where there is no C++ compiler.
pub(super) fn built() -> Option<PathBuf> {
    if Command::new("c++").arg("--version").output().is_err() {
        println!("not checked: there is no C++ compiler");
        return None;
    }
    let texts = [DRIVER, COMPILER, CUBLASLT, CUDNN];
    let version = xxh3_64(format!("{HOST}{}", texts.concat()).as_bytes());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/cuda-fake/{version:016x}"));
    if folder.is_dir() {
        return Some(folder);
    }
    // Whole or not at all: another run of the tests may be at it too.
    let parent = folder.parent().filter(|parent| fs::create_dir_all(parent).is_ok()).unwrap();
    let begun = tempfile::tempdir_in(parent).unwrap();
    let at = |name: &str| begun.path().join(name);
    fs::write(at("host.h"), HOST).unwrap();
    let define = format!("-DHOST_HEADER=\"{}\"", folder.join("host.h").display());
    let driver = at(NAMES[0]).display().to_string();
    for (name, text) in NAMES.into_iter().zip(texts) {
        let source = at(&format!("{name}.cpp"));
        fs::write(&source, text).unwrap();
        let linked = if name == NAMES[0] { vec![] } else { vec!["-Wl,--no-as-needed", &driver] };
        let flags = ["-shared", "-Wall", "-Werror", "-U_FORTIFY_SOURCE", &define];
        cpp(&[&flags[..], &linked].concat(), &format!("-Wl,-soname,{name}"), &source, &at(name));
    }
    // Compiled once for all kernels.
    cpp(&["-x", "c++-header"], "-w", &at("host.h"), &at("host.h.gch"));
    let _ = fs::rename(begun.path(), &folder);
    Some(folder)
}

/// Loads the stand-ins.
pub(super) fn fake() -> Option<MutexGuard<'static, Fake>> {
    static FAKE: OnceLock<Option<Mutex<Fake>>> = OnceLock::new();
    let fake = FAKE.get_or_init(|| {
        let folder = built()?;
        // SAFETY: they run nothing when they are loaded. Whoever asks for their names from now on gets them.
        let [driver, others @ ..] = NAMES.map(|name| unsafe { Library::new(folder.join(name)) }.unwrap());
        // SAFETY: the functions have these types.
        let fake = unsafe {
            Fake {
                kernels: folder.join("kernels"),
                log: *driver.get(b"stand_in_log\0").unwrap(),
                order: *driver.get(b"stand_in_order\0").unwrap(),
                refusals: *others[2].get(b"stand_in_refusals\0").unwrap(),
            }
        };
        std::mem::forget((driver, others));
        Some(Mutex::new(fake))
    });
    fake.as_ref().map(|fake| fake.lock().unwrap_or_else(PoisonError::into_inner))
}

fn cpp(flags: &[&str], flag: &str, source: &Path, made: &Path) {
    let files = [OsStr::new("-o"), made.as_os_str(), source.as_os_str()];
    let output =
        Command::new("c++").args(["-std=c++17", "-O1", "-fPIC", flag]).args(flags).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Fake {
    pub(super) fn open(&self, options: &DeviceOptions) -> CudaDevice {
        self.open_number(0, options)
    }

    /// One of the two GPUs.
    fn open_number(&self, number: usize, options: &DeviceOptions) -> CudaDevice {
        let options = DeviceOptions { pipelines: Some(self.kernels.clone()), ..options.clone() };
        CudaDevice::open(&adapters().unwrap()[number], &options).unwrap()
    }

    /// The order in which streams go ahead from now on: 0, as late as can be, or drawn by a seed.
    fn order(&self, seed: c_uint) {
        // SAFETY: it sets a number, and nobody calls the stand-in meanwhile.
        unsafe { (self.order)(seed) };
    }

    /// Lets cuDNN refuse so many calls that it promised to run.
    fn refuse(&self, calls: c_int) {
        // SAFETY: as above.
        unsafe { (self.refusals)(calls) };
    }

    /// The calls that `work` makes.
    fn calls(&self, work: impl FnOnce()) -> Vec<String> {
        // SAFETY: the stand-in has a text that ends with a zero, and nobody calls it meanwhile.
        let log = || unsafe { CStr::from_ptr((self.log)()) }.to_str().unwrap().to_string();
        let before = log().len();
        work();
        log()[before..].lines().map(str::to_string).collect()
    }
}

/// A training takes the same course as on the CPU backend, by NVIDIA's libraries and without, and each step is one recorded launch that
/// waits for nothing but its loss.
#[test]
fn a_training_is_recorded_once() {
    let Some(fake) = fake() else { return };
    let (optimizer, steps) = (OptimizerConfig::sgd(0.9, 5e-4), 2);
    let expected = training::train(&mut CpuDevice::new(None).unwrap(), &optimizer, 0.01, steps);
    // Five convolutions, the first without a gradient of its input, and three fully connected layers. What a library refuses after all
    // convoy's own kernel does, and that alone.
    let all = 5 + 4 + 5 + 3 * 3;
    for (own_kernels, refusals, of_libraries) in [(false, 0, all), (false, 1, all - 1), (true, 0, 0)] {
        fake.refuse(refusals);
        let device = fake.open(&DeviceOptions { own_kernels, ..DeviceOptions::default() });
        is_recorded_once(&fake, device, &optimizer, &expected.losses, of_libraries);
    }
}

fn is_recorded_once(
    fake: &Fake,
    mut device: CudaDevice,
    optimizer: &OptimizerConfig,
    wanted: &[f64],
    of_libraries: usize,
) {
    let steps = wanted.len() as u32;
    let mut trained = None;
    let calls = fake.calls(|| trained = Some(training::train(&mut device, optimizer, 0.01, steps)));
    let trained = trained.unwrap();
    let near = |(found, expected): (&f64, &f64)| (found - expected).abs() <= 1e-4 * expected;
    let found = &trained.losses;
    assert!(found.iter().zip(wanted).all(near), "{found:?}, expected {wanted:?}");
    let begins = |call: &String, start: &str| call.starts_with(start);
    assert_eq!(calls.iter().filter(|call| begins(call, "record")).count(), 1);
    let first = calls.iter().position(|call| begins(call, "upload ") && !call.contains("pageable")).unwrap();
    let step = ["upload 67500", "upload 16", "upload 16", "upload 16"].iter().map(|call| call.to_string());
    let copies = ["copy 67500", "copy 16", "copy 16", "copy 16"].iter().map(|call| call.to_string());
    let own = calls.iter().filter(|call| begins(call, "launch")).count();
    // Once before anything is recorded, so that the libraries have what they need.
    let others = calls.iter().filter(|call| begins(call, "cudnn") || begins(call, "cublaslt")).count();
    assert_eq!(others, 2 * of_libraries);
    let rest = [format!("run {}", own + of_libraries), "download 4".into(), "wait for an event".into()];
    let step: Vec<String> = step.chain(copies).chain(rest).collect();
    let mut found = calls[first..].to_vec();
    // The first step takes memory of the host for its results; the values are read at the end.
    found.retain(|call| !begins(call, "pin"));
    found.truncate(step.len() * steps as usize);
    let mut expected: Vec<String> = (0..steps).flat_map(|_| step.clone()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "{:?}", &calls[first..]);
}

/// Several steps in flight have each their own inputs and outputs, which may be asked for in any order, whichever stream goes ahead.
#[test]
fn steps_in_flight_keep_apart() {
    let Some(fake) = fake() else { return };
    let case = Op::all_cases().into_iter().find(|case| case.op.name() == "tanh").unwrap();
    let OneOp { graph, inputs, outputs } = OneOp::new("one", &case.op, &case.types()).unwrap();
    let given: Vec<Tensor> = (0..4).map(|seed| case.tensors(seed).remove(0)).collect();
    let mut device = fake.open(&DeviceOptions::default());
    let right = |found: &[Tensor], given: &Tensor| {
        as_f64(&found[0]).iter().zip(as_f64(given)).all(|(found, x)| (found - x.tanh()).abs() < 1e-6)
    };
    for order in 0..100 {
        fake.order(order);
        let mut program = device.compile(&graph, &outputs).unwrap();
        for _ in 0..2 {
            let submit = |tensor: &Tensor| {
                program.write(inputs[0], &given[0]).unwrap();
                program.write(inputs[0], tensor).unwrap();
                program.submit().unwrap()
            };
            let tickets: Vec<_> = given.iter().map(submit).collect();
            let early = program.outputs(tickets[1], false).unwrap();
            assert!(order > 0 || early.is_none(), "nobody has waited");
            for n in [1, 3, 0, 2].into_iter().filter(|&n| n != 1 || early.is_none()) {
                let found = program.outputs(tickets[n], true).unwrap().unwrap();
                assert!(right(&found, &given[n]), "order {order}, step {n}");
                assert!(program.outputs(tickets[n], true).is_err(), "they were taken");
            }
        }
        // A step without new inputs has those of the last one.
        let ticket = program.submit().unwrap();
        let found = program.outputs(ticket, true).unwrap().unwrap();
        assert!(right(&found, &given[3]), "order {order}");
        assert!(program.profile().unwrap().iter().any(|time| time.calls == 1 && time.ms > 0.0));
    }
    fake.order(0);
}

/// GPUs that train together fetch from each other what they need, whichever stream goes ahead: nothing but inputs and the loss goes through
/// the host, which waits for nothing but the loss.
#[test]
fn gpus_hand_over_to_each_other() {
    let Some(fake) = fake() else { return };
    let (optimizer, steps) = (OptimizerConfig::sgd(0.9, 5e-4), 2);
    let expected = training::train(&mut CpuDevice::new(None).unwrap(), &optimizer, 0.01, steps);
    let near = |(found, expected): (&f64, &f64)| (found - expected).abs() <= 1e-4 * expected;
    for (numbers, parallel, order) in
        [([0, 1], Parallel::Model, 0), ([1, 0], Parallel::Data, 2), ([1, 1], Parallel::Model, 3)]
    {
        fake.order(order);
        let open = |number| Box::new(fake.open_number(number, &DeviceOptions::default())) as Box<dyn Device>;
        let mut devices = SeveralDevices::new(numbers.map(open).into(), parallel).unwrap();
        let mut trained = None;
        let calls = fake.calls(|| trained = Some(training::train(&mut devices, &optimizer, 0.01, steps)));
        let found = trained.unwrap().losses;
        assert!(found.iter().zip(&expected.losses).all(near), "{numbers:?} {parallel:?}: {found:?}");
        let number = |start: &str| calls.iter().filter(|call| call.starts_with(start)).count();
        let pageable = number("upload of") + number("download to");
        assert_eq!(number("fetch ") > 0, numbers[0] != numbers[1]);
        assert_eq!(number("fetch by"), 0);
        // The four inputs, to each of the two.
        assert!(
            number("upload ") + number("download ") - pageable - number("download 4") <= 8 * steps as usize,
            "{calls:?}"
        );
        assert!(number("wait for an event") <= 2 * steps as usize, "{calls:?}");
    }
    fake.order(0);
}

/// The ways of NVIDIA's libraries are candidates before convoy's own kernels, all of them agree with these, and what is rounded is when it
/// is asked for only.
#[test]
fn libraries_are_tuned() {
    let Some(fake) = fake() else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = "name = \"m\"\ninput = [3, 12, 12]\nlayers = [{ kind = \"conv2d\", out = 8, kernel = 3 }, \"relu\", \"flatten\", \
                 { kind = \"linear\", out = 9, bias = false }, { kind = \"linear\", out = \"classes\" }]";
    let model = Model::parse(model, "m").unwrap();
    let graph = eval_graph(&model, &BuildOptions::new(3, 2)).unwrap().graph;
    let mut losses = Vec::new();
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        let mut device = fake.open(&DeviceOptions { precision, ..DeviceOptions::default() });
        assert!(device.info().driver.ends_with("cuBLASLt 13.1.0, cuDNN 9.28.1"), "{}", device.info().driver);
        let names = |node: &Node| device.candidates(&graph, node);
        let of = |name: &str| names(graph.nodes.iter().find(|node| node.op.name() == name).unwrap());
        // Of the stand-in's engines three keep to f32, one of which it does not propose; others round more, are not the same each time, or do
        // not run.
        let convolution = of("conv2d_bias_relu");
        let ways = match precision {
            Precision::F32 => &["cudnn", "cudnn 2", "cudnn 3"][..],
            Precision::Tf32 => &["cudnn nhwc", "cudnn", "cudnn 2", "cudnn 3"],
            _ => &["cudnn", "cudnn 2", "cudnn 3", "cudnn tf32"],
        };
        assert_eq!(convolution[..ways.len()], *ways);
        assert!(convolution.len() > ways.len() && !convolution[ways.len()].starts_with("cu"), "{convolution:?}");
        assert_eq!(of("linear")[..2], ["cublaslt", "cublaslt 2"]);
        assert!(of("augment").is_empty());
        let tuning = tune(&mut device, &graph, Tune::Full, folder.path()).unwrap().unwrap();
        assert_eq!((tuning.timed, &tuning.faults[..]), (3, &[][..]));
        let case = Op::all_cases().into_iter().find(|case| case.op.name() == "linear" && case.terms > 50).unwrap();
        let OneOp { graph, inputs, outputs } = OneOp::new("one", &case.op, &case.types()).unwrap();
        let mut program = device.compile(&graph, &outputs).unwrap();
        for (input, tensor) in inputs.iter().zip(case.tensors(1)) {
            program.write(*input, &tensor).unwrap();
        }
        let ticket = program.submit().unwrap();
        losses.push(as_f64(&program.outputs(ticket, true).unwrap().unwrap()[0]));
    }
    let apart = |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let (tf32, bf16) = (apart(&losses[0], &losses[1]), apart(&losses[0], &losses[2]));
    assert!(1e-5 < tf32 && 4.0 * tf32 < bf16 && bf16 < 1.0, "{tf32} and {bf16}");
}

/// bfloat16 is the upper half of an f32, rounded to the nearest, ties to even.
#[test]
fn numbers_become_bfloat16_and_back() {
    let Some(fake) = fake() else { return };
    let device = fake.open(&DeviceOptions::default());
    let Shared { context, stream, .. } = device.shared();
    let casts = Casts::new(&device.shared().kernels(), context, Element::Bf16).unwrap();
    let cases = [
        (1.0, 0x3f80),
        (f32::from_bits(0x3f80_8000), 0x3f80),
        (f32::from_bits(0x3f81_8000), 0x3f82),
        (f32::from_bits(0x3f80_8001), 0x3f81),
        (-0.0, 0x8000),
        (f32::MAX, 0x7f80),
        (f32::NEG_INFINITY, 0xff80),
        (f32::from_bits(0x7f80_0001), 0x7fc0),
        (f32::from_bits(3), 0),
    ];
    for count in [1, 2, cases.len()] {
        let memory = || Memory::new(context, 256).unwrap();
        let (x, narrow, wide) = (memory(), memory(), memory());
        let given: Vec<u8> = cases[..count].iter().flat_map(|(x, _)| x.to_le_bytes()).collect();
        stream.upload(x.address, &given).unwrap();
        stream.fill(wide.address, 0x5e, 256).unwrap();
        casts.copy(stream, [x.address, narrow.address], [1, 1, 1, count], None).unwrap();
        casts.copy_back(stream, [narrow.address, wide.address], [1, 1, 1, count], None).unwrap();
        let (mut halves, mut back) = (vec![0; 2 * count], vec![0; 256]);
        stream.download(&mut halves, narrow.address).unwrap();
        stream.download(&mut back, wide.address).unwrap();
        let expected = || cases[..count].iter().map(|(_, bits)| *bits as u16);
        assert!(halves.as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes)).eq(expected()), "{halves:x?}");
        let back = back.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes));
        let rest = std::iter::repeat_n(0x5e5e_5e5e, 64 - count);
        assert!(back.eq(expected().map(|bits| u32::from(bits) << 16).chain(rest)));
    }
}

/// Channels come to lie together, with zeros where there is room for more, and apart again.
#[test]
fn channels_are_turned() {
    let Some(fake) = fake() else { return };
    let device = fake.open(&DeviceOptions::default());
    let Shared { context, stream, .. } = device.shared();
    let casts = [Element::Bf16, Element::F32];
    let casts = casts.map(|element| Casts::new(&device.shared().kernels(), context, element).unwrap());
    let shapes = [
        ([2, 40, 5, 9], 40),
        ([3, 8, 1, 1], 8),
        ([1, 1, 6, 7], 1),
        ([2, 33, 33, 1], 33),
        ([1, 72, 4, 8], 72),
        ([2, 3, 5, 9], 8),
        ([2, 3, 9, 5], 4),
        ([3, 1, 6, 7], 8),
        ([2, 5, 1, 1], 8),
        ([2, 29, 7, 1], 40),
    ];
    for (casts, (extents, room)) in casts.iter().flat_map(|casts| shapes.map(|shape| (casts, shape))) {
        let [n, c, h, w] = extents;
        let (count, each) = (n * c * h * w, casts.element.bytes());
        let bytes = |each: usize, channels: usize| each * n * channels * h * w;
        let memory = |bytes: usize| Memory::new(context, bytes as u64).unwrap();
        let (x, copy, back) = (memory(bytes(4, c)), memory(bytes(each, room)), memory(bytes(4, c)));
        // Whole numbers below 256 are bfloat16 as they are.
        let given: Vec<f32> = (0..count).map(|n| (n * 7 % 251 + 1) as f32).collect();
        let from: Vec<u8> = given.iter().flat_map(|x| x.to_le_bytes()).collect();
        stream.upload(x.address, &from).unwrap();
        casts.copy(stream, [x.address, copy.address], extents, Some(room)).unwrap();
        casts.copy_back(stream, [copy.address, back.address], extents, Some(room)).unwrap();
        let (mut copied, mut returned) = (vec![0; bytes(each, room)], vec![0; bytes(4, c)]);
        stream.download(&mut copied, copy.address).unwrap();
        stream.download(&mut returned, back.address).unwrap();
        assert!(returned == from, "{:?} {extents:?}", casts.element);
        for (at, found) in copied.chunks_exact(each).enumerate() {
            let (picture, place, channel) = (at / (room * h * w), at / room % (h * w), at % room);
            let expected: f32 = if channel < c { given[(picture * c + channel) * h * w + place] } else { 0.0 };
            // bfloat16 is the upper half.
            assert_eq!(found, &expected.to_le_bytes()[4 - each..], "{:?} {extents:?} {at}", casts.element);
        }
    }
}

/// What is too large is refused with what to do.
#[test]
fn what_does_not_fit_is_refused() {
    let Some(fake) = fake() else { return };
    let mut device = fake.open(&DeviceOptions::default());
    let zeros = Tensor::f32([1 << 24], vec![0.0; 1 << 24]).unwrap();
    let error = (0..5).find_map(|n| device.set(&format!("parameter {n}"), &zeros).err()).unwrap();
    assert!(error.to_string().contains("out of memory; lower --batch-size"), "{error}");
    device.remove("parameter 0");
    device.set("small", &Tensor::f32([2], vec![1.0, 2.0]).unwrap()).unwrap();
    assert_eq!(as_f64(&device.get("small").unwrap()), [1.0, 2.0]);
}

/// The tensor's elements as f64.
fn as_f64(tensor: &Tensor) -> Vec<f64> {
    Array::from(tensor).data
}
