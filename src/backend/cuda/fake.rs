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
use crate::backend::cpu::CpuDevice;
use crate::backend::wgpu::translate::pipelines;
use crate::backend::{Device, DeviceOptions};
use crate::models::OptimizerConfig;
use crate::ops::case::Case;
use crate::ops::{Array, Op};
use crate::selftest::harness::OneOp;
use crate::selftest::{Kind, Selection, Suite};
use crate::tensor::Tensor;

const HOST: &str = include_str!("../../../tests/cuda/host.h");
const DRIVER: &str = include_str!("../../../tests/cuda/driver.cpp");
const COMPILER: &str = include_str!("../../../tests/cuda/nvrtc.cpp");

/// Multiply-accumulates and elements of a case at most: larger ones reach few other edges, and would take most of the time.
const MOST_MACS: u64 = 400_000;
const MOST_ELEMENTS: usize = 50_000;

/// The stand-ins, for one test at a time.
struct Fake {
    /// What they compiled.
    kernels: PathBuf,
    log: unsafe extern "C" fn() -> *const c_char,
    order: unsafe extern "C" fn(c_uint) -> c_int,
}

/// Builds and loads the stand-ins; `None`, and says so, where there is no C++ compiler.
fn fake() -> Option<MutexGuard<'static, Fake>> {
    static FAKE: OnceLock<Option<Mutex<Fake>>> = OnceLock::new();
    let fake = FAKE.get_or_init(|| {
        Command::new("c++").arg("--version").output().ok()?;
        let version = xxh3_64(format!("{HOST}{DRIVER}{COMPILER}").as_bytes());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/cuda-fake/{version:016x}"));
        let [header, driver, compiler] = ["host.h", "libcuda.so.1", "libnvrtc.so.13"].map(|name| folder.join(name));
        if !folder.is_dir() {
            // Whole or not at all: another run of the tests may be at it too.
            let begun =
                tempfile::tempdir_in(folder.parent().filter(|parent| fs::create_dir_all(parent).is_ok()).unwrap());
            let begun = begun.unwrap();
            let at = |name| begun.path().join(name);
            for (name, text) in [("host.h", HOST), ("driver.cpp", DRIVER), ("nvrtc.cpp", COMPILER)] {
                fs::write(at(name), text).unwrap();
            }
            let define = format!("-DHOST_HEADER=\"{}\"", header.display());
            let flags = ["-shared", "-Wall", "-Werror", "-U_FORTIFY_SOURCE", &define];
            let named = |name: &str| format!("-Wl,-soname,{name}");
            cpp(&flags, &named("libcuda.so.1"), &at("driver.cpp"), &at("libcuda.so.1"));
            cpp(&flags, &named("libnvrtc.so.13"), &at("nvrtc.cpp"), &at("libnvrtc.so.13"));
            // Compiled once for all kernels.
            cpp(&["-x", "c++-header"], "-w", &at("host.h"), &at("host.h.gch"));
            let _ = fs::rename(begun.path(), &folder);
        }
        // SAFETY: they run nothing when they are loaded. Whoever asks for their names from now on gets them.
        let [driver, compiler] = [driver, compiler].map(|path| unsafe { Library::new(path) }.unwrap());
        // SAFETY: the functions have these types.
        let (log, order) =
            unsafe { (*driver.get(b"stand_in_log\0").unwrap(), *driver.get(b"stand_in_order\0").unwrap()) };
        std::mem::forget((driver, compiler));
        Some(Mutex::new(Fake { kernels: folder.join("kernels"), log, order }))
    });
    if fake.is_none() {
        println!("not checked: there is no C++ compiler");
    }
    fake.as_ref().map(|fake| fake.lock().unwrap_or_else(PoisonError::into_inner))
}

fn cpp(flags: &[&str], flag: &str, source: &Path, made: &Path) {
    let files = [OsStr::new("-o"), made.as_os_str(), source.as_os_str()];
    let output =
        Command::new("c++").args(["-std=c++17", "-O1", "-fPIC", flag]).args(flags).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Fake {
    fn open(&self, options: &DeviceOptions) -> CudaDevice {
        let options = DeviceOptions { pipelines: Some(self.kernels.clone()), ..options.clone() };
        CudaDevice::open(&adapters().unwrap()[0], &options).unwrap()
    }

    /// The order in which streams go ahead from now on: 0, as late as can be, or drawn by a seed.
    fn order(&self, seed: c_uint) {
        // SAFETY: it sets a number, and nobody calls the stand-in meanwhile.
        unsafe { (self.order)(seed) };
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

/// Every case on the kinds of devices that there are for a GPU: each kernel compiles, and computes what it should. Of the small windows the
/// smallest, and no checks that naga would add.
#[test]
fn every_case_is_right() {
    let Some(fake) = fake() else { return };
    let mut dispatches = pipelines();
    dispatches.retain(|dispatch| !dispatch.kernel.source.contains("texture_storage_2d"));
    assert!(dispatches.len() > 300, "only {} pipelines", dispatches.len());
    let device = fake.open(&DeviceOptions::default());
    device.shared().kernels().get(&device.shared().context, &dispatches).unwrap();
    let suite = Suite::new(&Selection::default());
    let kinds = [Kind::plain()].into_iter().chain(Kind::others(device.info()));
    let (mut failures, mut checked) = (Vec::new(), 0);
    let apart = |kind: &Kind| !kind.options.checked && kind.options.max_binding_bytes.is_none_or(|bytes| bytes <= 4096);
    for kind in kinds.filter(apart) {
        let mut device = fake.open(&kind.options);
        let wanted = |case: &Case| {
            let elements: usize = case.types().iter().map(|ty| ty.shape.elements()).sum();
            kind.takes(case) && case.op.macs(&case.types()) <= MOST_MACS && elements <= MOST_ELEMENTS
        };
        for prepared in suite.cases().iter().filter(|prepared| wanted(&prepared.case)) {
            checked += 1;
            if let Err(wrong) = prepared.check_on(&kind, &mut device) {
                failures.push(format!("{} {}: {wrong}", kind.name, prepared.case.label()));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {checked} cases:\n{}", failures.len(), failures.join("\n"));
    println!("{} kernels, {checked} cases", dispatches.len());
}

/// A training takes the same course as on the CPU backend, and each step is one recorded launch that waits for nothing but its loss.
#[test]
fn a_training_is_recorded_once() {
    let Some(fake) = fake() else { return };
    let (optimizer, steps) = (OptimizerConfig::sgd(0.9, 5e-4), 4);
    let expected = training::train(&mut CpuDevice::new(None).unwrap(), &optimizer, 0.01, steps);
    let mut device = fake.open(&DeviceOptions::default());
    let mut trained = None;
    let calls = fake.calls(|| trained = Some(training::train(&mut device, &optimizer, 0.01, steps)));
    let trained = trained.unwrap();
    let near = |(found, expected): (&f64, &f64)| (found - expected).abs() <= 1e-4 * expected;
    let (found, wanted) = (&trained.losses, &expected.losses);
    assert!(found.iter().zip(wanted).all(near), "{found:?}, expected {wanted:?}");
    let begins = |call: &String, start: &str| call.starts_with(start);
    assert_eq!(calls.iter().filter(|call| begins(call, "record")).count(), 1);
    let first = calls.iter().position(|call| begins(call, "upload ") && !call.contains("pageable")).unwrap();
    let step = ["upload 67500", "upload 16", "upload 16", "upload 16"].iter().map(|call| call.to_string());
    let copies = ["copy 67500", "copy 16", "copy 16", "copy 16"].iter().map(|call| call.to_string());
    let launches = calls.iter().filter(|call| begins(call, "launch")).count();
    let rest = [format!("run {launches}"), "download 4".into(), "wait for an event".into()];
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

/// What is too large is refused with what to do.
#[test]
fn what_does_not_fit_is_refused() {
    let Some(fake) = fake() else { return };
    let mut device = fake.open(&DeviceOptions::default());
    let zeros = Tensor::f32([1 << 28], vec![0.0; 1 << 28]).unwrap();
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
