//! Where NVIDIA's libraries are: the driver's where the system looks, the compiler's also in a toolkit's folder and those of Python
//! packages. Nothing of them is needed to build convoy.

use std::collections::BTreeMap;
use std::env;
use std::ffi::c_int;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::Library;

use crate::error::{Error, Result};

/// What the system calls the driver's library.
const DRIVER: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };

/// What the system calls the compiler's, the newest first.
const COMPILER: &[&str] = if cfg!(windows) {
    &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
} else {
    &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
};

/// The functions of a library that are used, by their names.
macro_rules! functions {
    ($all:ident; $($name:ident($($argument:ty),* $(,)?) -> $result:ty;)*) => {
        #[allow(non_snake_case)]
        pub(super) struct $all {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl $all {
            pub fn of(library: &'static libloading::Library) -> std::result::Result<$all, libloading::Error> {
                // SAFETY: these are their types in every version that convoy asks for.
                unsafe { Ok($all { $($name: *library.get(concat!(stringify!($name), "\0").as_bytes())?,)* }) }
            }
        }
    };
}
pub(super) use functions;

/// NVIDIA's driver: once it is loaded here, cudarc finds it.
///
/// # Errors
/// When there is none.
pub(super) fn driver() -> Result<()> {
    static DRIVER_LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
    let loaded = DRIVER_LIBRARY.get_or_init(|| load(DRIVER, &[], |_| Ok(())));
    let because = |tried: &String| {
        Error::device(format!(
            "NVIDIA's driver is not installed: {tried}. Install the driver of the GPU, 525 or newer, or choose another --adapter"
        ))
    };
    loaded.as_ref().map(drop).map_err(because)
}

/// NVRTC, which compiles kernels: one that is not of a newer CUDA (`major`) than the driver's, which would not take its code.
///
/// # Errors
/// When there is none, with what to install.
pub(super) fn compiler(major: c_int) -> Result<&'static Library> {
    static COMPILER_LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
    let fits = |library: &Library| match version(library) {
        Some([of, _]) if of <= major => Ok(()),
        Some([of, minor]) => Err(format!("is of CUDA {of}.{minor}, the driver of {major}")),
        None => Err("does not say its version".into()),
    };
    let loaded = COMPILER_LIBRARY.get_or_init(|| load(COMPILER, &folders(), fits));
    loaded.as_ref().map_err(|tried| {
        let package = if major < 13 { "nvidia-cuda-nvrtc-cu12" } else { "nvidia-cuda-nvrtc" };
        Error::device(format!(
            "NVIDIA's compiler of kernels, NVRTC, is not installed: {tried}. Install a CUDA toolkit, 12 to {major}, and set CUDA_PATH to its \
             folder, or `pip install {package}` in the Python environment that is active; or choose another --adapter"
        ))
    })
}

/// cuDNN 9, and the major version of the CUDA that it is of: no newer than the driver's, which would not run its code.
///
/// # Errors
/// When there is none, with what to install.
pub(super) fn cudnn(driver: c_int) -> Result<(&'static Library, c_int)> {
    static LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
    let names = if cfg!(windows) { &["cudnn64_9.dll"] } else { &["libcudnn.so.9"] };
    let fits = |library: &Library| match cuda_of_cudnn(library) {
        Some(of) if of <= driver => cublaslt(of).map(drop).map_err(|error| format!("is of CUDA {of}, but {error}")),
        Some(of) => Err(format!("is of CUDA {of}, the driver of {driver}")),
        None => Err("does not say its version".into()),
    };
    let loaded = LIBRARY.get_or_init(|| load(names, &folders(), fits));
    let package = if driver < 13 { "nvidia-cudnn-cu12" } else { "nvidia-cudnn-cu13" };
    let library = loaded.as_ref().map_err(|tried| missing("cuDNN", tried, package))?;
    Ok((library, cuda_of_cudnn(library).unwrap_or(driver)))
}

fn cuda_of_cudnn(library: &Library) -> Option<c_int> {
    // SAFETY: this is its type in every cuDNN.
    let version = unsafe { library.get::<unsafe extern "C" fn() -> usize>(b"cudnnGetCudartVersion\0").ok()?() };
    Some((version / 1000) as c_int)
}

/// cuBLASLt of this major version of CUDA: that of cuDNN, which uses it too, and ends the process where it does not find it.
///
/// # Errors
/// When there is none, with what to install.
pub(super) fn cublaslt(major: c_int) -> Result<&'static Library> {
    static LIBRARIES: Mutex<BTreeMap<c_int, std::result::Result<&'static Library, String>>> =
        Mutex::new(BTreeMap::new());
    let name = if cfg!(windows) { format!("cublasLt64_{major}.dll") } else { format!("libcublasLt.so.{major}") };
    let package = if major < 13 { "nvidia-cublas-cu12" } else { "nvidia-cublas" };
    let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
    let forever = |library| -> &'static Library { Box::leak(Box::new(library)) };
    let loaded = libraries.entry(major).or_insert_with(|| load(&[&name], &folders(), |_| Ok(())).map(forever));
    loaded.clone().map_err(|tried| missing("cuBLASLt", &tried, package))
}

fn missing(name: &str, tried: &str, package: &str) -> Error {
    Error::device(format!(
        "NVIDIA's {name} is not installed: {tried}. Install it, or `pip install {package}` in the Python environment that is active"
    ))
}

/// Major and minor version of an NVRTC.
fn version(library: &Library) -> Option<[c_int; 2]> {
    let mut version = [0; 2];
    let [major, minor] = &mut version;
    // SAFETY: this is its type in every NVRTC; places for both numbers.
    let code = unsafe {
        let get = library.get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(b"nvrtcVersion\0").ok()?;
        get(major, minor)
    };
    (code == 0).then_some(version)
}

/// The first library of these names that will do, where the system looks, else in one of the folders.
pub(super) fn load(
    names: &[&str],
    folders: &[PathBuf],
    fits: impl Fn(&Library) -> std::result::Result<(), String>,
) -> std::result::Result<Library, String> {
    let places = names.iter().map(PathBuf::from);
    let further = folders.iter().flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    let mut broken = String::new();
    for place in places.chain(further.filter(|path| path.is_file())) {
        load_builtins(&place);
        // SAFETY: NVIDIA's libraries run nothing of note when they are loaded.
        match unsafe { Library::new(&place) } {
            Ok(library) => match fits(&library) {
                Ok(()) => return Ok(library),
                Err(why) => broken += &format!("; {} {why}", place.display()),
            },
            Err(error) if place.is_absolute() => broken += &format!("; {}: {error}", place.display()),
            Err(_) => (),
        }
    }
    let searched = match folders.len() {
        0 => String::new(),
        _ => format!(" and in {}", folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")),
    };
    Err(format!("looked for {} where the system has its libraries{searched}{broken}", names.join(", ")))
}

/// NVRTC asks for its second library by name only: where the system does not look, it has to be there already.
fn load_builtins(place: &Path) {
    let Some(folder) = place.parent().filter(|_| place.is_absolute()) else { return };
    let pattern = folder.join("*nvrtc-builtins*").display().to_string();
    for path in glob::glob(&pattern).into_iter().flatten().flatten() {
        // SAFETY: as any of NVIDIA's libraries.
        if let Ok(library) = unsafe { Library::new(path) } {
            std::mem::forget(library);
        }
    }
}

/// Folders of libraries: of CUDA toolkits, and of the packages of Python environments. Only those that are there.
fn folders() -> Vec<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut toolkits: Vec<PathBuf> =
        ["CUDA_PATH", "CUDA_HOME", "CONDA_PREFIX"].into_iter().filter_map(variable).collect();
    if cfg!(unix) {
        toolkits.push("/usr/local/cuda".into());
    }
    let of_toolkit =
        |toolkit: PathBuf| ["lib64", "lib", "bin", "bin/x64", "Library/bin"].map(|folder| toolkit.join(folder));
    let mut folders: Vec<PathBuf> = toolkits.into_iter().flat_map(of_toolkit).collect();
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable);
    // The environment whose Python is found first: it is active, whether or not a variable says so.
    let path = env::var_os("PATH").unwrap_or_default();
    let python = env::split_paths(&path).find(|folder| folder.join("python3").is_file());
    let python = python.and_then(|folder| folder.parent().map(Path::to_path_buf));
    let users = dirs::home_dir().map(|home| home.join(".local"));
    let systems = cfg!(unix).then_some(["/usr/local", "/usr"]).into_iter().flatten().map(PathBuf::from);
    for root in environments.chain(python).chain(users).chain(systems) {
        // lib/python3.12/site-packages/nvidia/cu13/lib, and before CUDA 13 nvidia/cuda_nvrtc/lib; Lib/site-packages on Windows.
        for packages in ["lib/python3*/site-packages", "lib/python3*/dist-packages", "Lib/site-packages"] {
            let pattern = root.join(packages).join("nvidia/*/{}").display().to_string();
            for folder in ["lib", "bin", "bin/x86_64"] {
                folders.extend(glob::glob(&pattern.replace("{}", folder)).into_iter().flatten().flatten());
            }
        }
    }
    folders.retain(|folder| folder.is_dir());
    folders
}
