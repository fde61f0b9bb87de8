//! NVRTC: from CUDA C++ to machine code, kept in files from run to run.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};

use libloading::Library;
use xxhash_rust::xxh3::xxh3_64;

use super::library::functions;
use super::{driver, library};
use crate::backend::kept;
use crate::error::{Error, Result};

type Program = *mut c_void;

functions! {
    Functions;
    nvrtcVersion(*mut c_int, *mut c_int) -> c_int;
    nvrtcGetNumSupportedArchs(*mut c_int) -> c_int;
    nvrtcGetSupportedArchs(*mut c_int) -> c_int;
    nvrtcCreateProgram(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> c_int;
    nvrtcCompileProgram(Program, c_int, *const *const c_char) -> c_int;
    nvrtcGetProgramLogSize(Program, *mut usize) -> c_int;
    nvrtcGetProgramLog(Program, *mut c_char) -> c_int;
    nvrtcGetCUBINSize(Program, *mut usize) -> c_int;
    nvrtcGetCUBIN(Program, *mut c_char) -> c_int;
    nvrtcGetPTXSize(Program, *mut usize) -> c_int;
    nvrtcGetPTX(Program, *mut c_char) -> c_int;
    nvrtcDestroyProgram(*mut Program) -> c_int;
}

/// Compiles kernels for one kind of GPU.
pub(super) struct Compiler {
    nvrtc: Functions,
    /// `--gpu-architecture`.
    architecture: String,
    /// Whether it is that of the GPU: else the driver goes on from NVRTC's assembly (PTX).
    native: bool,
    version: [c_int; 2],
    /// Folder of what was compiled before.
    kept: Option<PathBuf>,
}

impl Compiler {
    /// For a GPU of compute capability `major`.`minor`; what is compiled is kept in `kept`.
    ///
    /// # Errors
    /// Where there is no NVRTC, or one that knows no GPU so old.
    pub fn new(capability: [c_int; 2], kept: Option<&Path>) -> Result<Compiler> {
        let [major, minor] = driver::version()?;
        if major < 12 {
            return Err(Error::device(format!(
                "NVIDIA's driver is of CUDA {major}.{minor}; install a newer one, 525 or later, or choose another --adapter"
            )));
        }
        Compiler::of(library::compiler(major)?, capability, kept)
    }

    /// [`Compiler::new`] of this NVRTC.
    fn of(library: &'static Library, [major, minor]: [c_int; 2], kept: Option<&Path>) -> Result<Compiler> {
        let nvrtc = Functions::of(library).map_err(|e| {
            Error::device(format!("NVIDIA's compiler of kernels, NVRTC, is too old: {e}; install 12 or newer"))
        })?;
        let (mut version, mut count) = ([0; 2], 0);
        let [of_major, of_minor] = &mut version;
        // SAFETY: places for as many numbers as are written.
        let known = unsafe {
            check((nvrtc.nvrtcVersion)(of_major, of_minor))?;
            check((nvrtc.nvrtcGetNumSupportedArchs)(&mut count))?;
            let mut known = vec![0; count.max(0) as usize];
            check((nvrtc.nvrtcGetSupportedArchs)(known.as_mut_ptr()))?;
            known
        };
        let wanted = 10 * major + minor;
        let best = known.iter().copied().filter(|&known| known <= wanted).max().ok_or_else(|| {
            let (least, [of, number]) = (known.iter().min().copied().unwrap_or(0), version);
            Error::device(format!(
                "the GPU has compute capability {major}.{minor}, but NVRTC {of}.{number} compiles for {}.{} and newer; install an older \
                 one, or use --adapter vulkan",
                least / 10, least % 10
            ))
        })?;
        let native = best == wanted;
        let architecture = format!("--gpu-architecture={}_{best}", if native { "sm" } else { "compute" });
        Ok(Compiler { nvrtc, architecture, native, version, kept: kept.map(Path::to_path_buf) })
    }

    /// The machine code, or assembly, of a text, to be loaded as a module. Ends with a zero.
    ///
    /// # Errors
    /// What NVRTC says against the text.
    pub fn compile(&self, name: &str, text: &str) -> Result<Vec<u8>> {
        let key = format!("{:?} {} {text}", self.version, self.architecture);
        let file = self.kept.as_ref().map(|folder| folder.join(format!("cuda-{:016x}.bin", xxh3_64(key.as_bytes()))));
        if let Some(code) = file.as_deref().and_then(kept::read) {
            return Ok(code);
        }
        let code = self.compiled(name, text)?;
        if let Some(file) = file {
            kept::write(&file, &code);
        }
        Ok(code)
    }

    fn compiled(&self, name: &str, text: &str) -> Result<Vec<u8>> {
        let text = CString::new(text).map_err(|_| Error::device(format!("{name}: its text has a zero")))?;
        let options = [c"--std=c++17".to_owned(), CString::new(&*self.architecture).unwrap_or_default()];
        let options = options.each_ref().map(|option| option.as_ptr());
        let nvrtc = &self.nvrtc;
        let mut program = Made { program: null_mut(), nvrtc };
        // SAFETY: the strings end with zeros and live until the end of the calls; buffers have the sizes that were asked for.
        unsafe {
            check((nvrtc.nvrtcCreateProgram)(
                &mut program.program,
                text.as_ptr(),
                c"kernel.cu".as_ptr(),
                0,
                null(),
                null(),
            ))?;
            let program = program.program;
            if (nvrtc.nvrtcCompileProgram)(program, options.len() as c_int, options.as_ptr()) != 0 {
                let log = bytes(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)?;
                let log = String::from_utf8_lossy(&log).replace('\0', "");
                return Err(Error::device(format!("NVRTC does not compile {name}: {}", log.trim())));
            }
            match self.native {
                true => bytes(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN),
                false => bytes(program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX),
            }
        }
    }
}

/// A program that is destroyed when it is dropped.
struct Made<'a> {
    program: Program,
    nvrtc: &'a Functions,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: it was created, and nobody uses it any more.
            unsafe { (self.nvrtc.nvrtcDestroyProgram)(&mut self.program) };
        }
    }
}

/// What a pair of functions gives of a program, and a zero.
///
/// # Safety
/// The functions are NVRTC's, the first for the size, and the program is alive.
unsafe fn bytes(
    program: Program,
    size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    get: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
) -> Result<Vec<u8>> {
    let mut count = 0;
    // SAFETY: the caller's; the buffer has the size that was asked for.
    unsafe {
        check(size(program, &mut count))?;
        let mut bytes = vec![0; count + 1];
        check(get(program, bytes.as_mut_ptr().cast()))?;
        Ok(bytes)
    }
}

fn check(code: c_int) -> Result<()> {
    match code {
        0 => Ok(()),
        1 => Err(Error::device("NVRTC is out of memory")),
        other => Err(Error::device(format!("NVRTC fails with error {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;
    use crate::backend::cuda::casts::{self, Element};
    use crate::backend::cuda::kernels::text;
    use crate::backend::cuda::translate::PRELUDE;
    use crate::backend::wgpu::dawn::part;
    use crate::backend::wgpu::dispatch::Dispatch;
    use crate::backend::wgpu::translate::pipelines;

    /// NVRTC itself takes every kernel, for the architectures from Turing to Hopper, and for a GPU that it does not know.
    #[test]
    #[ignore = "needs `tests/compilers/install nvrtc`"]
    fn nvrtc_takes_every_kernel() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/compilers/nvrtc");
        let library = library::load(&["libnvrtc.so.13"], &[folder], |_| Ok(())).unwrap_or_else(|e| panic!("{e}"));
        let library: &'static Library = Box::leak(Box::new(library));
        let compilers =
            [[7, 5], [8, 0], [9, 0], [99, 0]].map(|capability| Compiler::of(library, capability, None).unwrap());
        assert_eq!(compilers.each_ref().map(|compiler| compiler.native), [true, true, true, false]);
        let error = Compiler::of(library, [3, 5], None).err().unwrap().to_string();
        assert!(error.contains("compute capability 3.5") && error.contains("--adapter vulkan"), "{error}");
        let wrong = compilers[0].compile("wrong", "__global__ void wrong() { unknown(); }").unwrap_err().to_string();
        assert!(wrong.contains("does not compile wrong") && wrong.contains("unknown"), "{wrong}");
        let mut dispatches = pipelines();
        dispatches.retain(|dispatch| !dispatch.kernel.source.contains("texture_storage_2d"));
        let named = |dispatch: &Dispatch| {
            (format!("{} {:?}", dispatch.kernel.name, dispatch.overrides), text(dispatch).unwrap().text)
        };
        let casts = [Element::Bf16, Element::F32].into_iter().flat_map(casts::texts);
        let casts = casts.map(|(name, text)| (name.to_string(), format!("{PRELUDE}\n{text}")));
        let texts: Vec<(String, String)> = casts.chain(dispatches.iter().map(named)).collect();
        assert!(texts.len() > 300, "only {} kernels", texts.len());
        let compile = |(number, (name, text)): (usize, &(String, String))| {
            // Assembly of a few: the driver, which goes on from it, is not at hand.
            let of = if number % 20 == 0 { &compilers[..] } else { &compilers[..3] };
            let codes: Result<Vec<Vec<u8>>> = of.iter().map(|compiler| compiler.compile(name, text)).collect();
            let short =
                |codes: Vec<Vec<u8>>| codes.iter().any(|code| code.len() < 100).then(|| format!("{name}: no code"));
            codes.map_or_else(|e| Some(e.to_string()), short)
        };
        let (part, parts) = part();
        let numbered: Vec<_> = texts.iter().enumerate().skip(part).step_by(parts).collect();
        let problems: Vec<String> = numbered.par_iter().copied().filter_map(compile).collect();
        assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
        println!("NVRTC compiles {} of {} kernels, each for three architectures", numbered.len(), texts.len());
    }
}
