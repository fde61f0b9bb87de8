//! The backend on stand-ins of NVIDIA's libraries, which a C++ compiler makes of `tests/cuda`: the same host code and the same kernels, on
//! the processor.

use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::Library;
use xxhash_rust::xxh3::xxh3_64;

use super::CudaDevice;
use super::adapter::adapters;
use crate::backend::{Device, DeviceOptions};
use crate::selftest::{Kind, Selection, Suite};

const SOURCES: [(&str, &str, &str); 2] = [
    ("libcuda.so.1", "driver.cpp", include_str!("../../../tests/cuda/driver.cpp")),
    ("libnvrtc.so.13", "nvrtc.cpp", include_str!("../../../tests/cuda/nvrtc.cpp")),
];
const HOST: &str = include_str!("../../../tests/cuda/host.h");

/// The stand-ins, for one test at a time.
struct Fake {
    /// What they compiled.
    kernels: PathBuf,
    log: unsafe extern "C" fn() -> *const c_char,
}

/// Builds and loads the stand-ins; `None`, and says so, where there is no C++ compiler.
fn fake() -> Option<MutexGuard<'static, Fake>> {
    static FAKE: OnceLock<Option<Mutex<Fake>>> = OnceLock::new();
    let fake = FAKE.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let all = SOURCES.iter().map(|(_, _, text)| *text).chain([HOST]).collect::<String>();
        let folder = root.join(format!("target/cuda-fake/{:016x}", xxh3_64(all.as_bytes())));
        std::fs::create_dir_all(&folder).unwrap();
        let libraries = SOURCES.map(|(library, source, _)| {
            let (made, begun) = (folder.join(library), folder.join(format!("{library}.{}", std::process::id())));
            if !made.is_file() {
                let source = root.join("tests/cuda").join(source);
                let header = format!("-DHOST_HEADER=\"{}\"", root.join("tests/cuda/host.h").display());
                let mut command = Command::new("c++");
                command.args([
                    "-std=c++17",
                    "-O1",
                    "-Wall",
                    "-Werror",
                    "-shared",
                    "-fPIC",
                    &header,
                ]);
                let output =
                    command.arg(format!("-Wl,-soname,{library}")).arg("-o").arg(&begun).arg(source).output().ok()?;
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                std::fs::rename(&begun, &made).unwrap();
            }
            // SAFETY: they run nothing when they are loaded. Whoever asks for their names from now on gets them.
            Some(unsafe { Library::new(&made) }.unwrap())
        });
        let [Some(driver), Some(compiler)] = libraries else { return None };
        // SAFETY: the function has this type.
        let log = unsafe { *driver.get::<unsafe extern "C" fn() -> *const c_char>(b"stand_in_log\0").unwrap() };
        std::mem::forget((driver, compiler));
        Some(Mutex::new(Fake { kernels: folder.join("kernels"), log }))
    });
    if fake.is_none() {
        println!("not checked: there is no C++ compiler");
    }
    fake.as_ref().map(|fake| fake.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Fake {
    fn open(&self, options: &DeviceOptions) -> CudaDevice {
        let options = DeviceOptions { pipelines: Some(self.kernels.clone()), ..options.clone() };
        CudaDevice::open(&adapters().unwrap()[0], &options).unwrap()
    }

    /// The calls so far.
    fn log(&self) -> String {
        // SAFETY: the stand-in has a text that ends with a zero, and nobody calls it meanwhile.
        unsafe { CStr::from_ptr((self.log)()) }.to_str().unwrap().into()
    }
}

/// Every case on every kind of device that there is for a GPU.
#[test]
fn every_case_is_right() {
    let Some(fake) = fake() else { return };
    let suite = Suite::new(&Selection::default());
    let mut device = fake.open(&Kind::plain().options);
    let others = Kind::others(device.info());
    let mut report = suite.run(&mut device, |_| {});
    for kind in others.iter().filter(|kind| !kind.options.checked) {
        let start = std::time::Instant::now();
        suite.add(&mut report, &mut fake.open(&kind.options), kind, |_| {});
        println!("{}: {:?}", kind.name, start.elapsed());
    }
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{} of {} cases:\n{}", report.failed, report.cases, failures.join("\n"));
    println!("{} cases", report.cases);
}
