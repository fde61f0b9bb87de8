//! Every kernel that any case of any op asks for, as every kind of device would get it, translated for the systems that are
//! not at hand: SPIR-V (Vulkan), MSL (Metal), HLSL (DX12), GLSL (GL). What can be checked of the texts here is checked.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use naga::back::{glsl, hlsl, msl, spv};
use naga::valid::ModuleInfo;
use naga::{Module, ShaderStage};
use rayon::prelude::*;

use super::dispatch::Dispatch;
use super::lower::of_case;
use super::lowering::{ALIGNMENT, Capability, MAX_GROUPS, STORAGE_BUFFERS};
use super::matrices::Matrices;
use super::shaders::{Binding, BindingKind, Kernel};
use crate::backend::Precision;
use crate::backend::cuda::translate;
use crate::ops::case::Case;
use crate::ops::{Op, draw};

/// The limits of WebGPU, which every device has: <https://www.w3.org/TR/webgpu/#limits>.
const MAX_INVOCATIONS: usize = 256;
const MAX_WORKGROUP_BYTES: u32 = 16_384;

/// Random cases of each op, beside the fixed ones.
pub(super) const RANDOM: u32 = 24;

/// The most kernels that an op chooses between.
const CANDIDATES: usize = 10;

/// GPUs, with each of the kernels that there are for an op, software with and without subgroups, and devices that bind
/// little at once.
pub fn capabilities() -> Vec<Capability> {
    let capability = |max_window, software, subgroup| Capability { software, subgroup, ..Capability::gpu(max_window) };
    let (large, small) = (128 << 20, 64 * 1024 / ALIGNMENT * ALIGNMENT);
    let gpu = Capability { storage_buffers: STORAGE_BUFFERS, ..capability(large, false, Some(32)) };
    let gpus = (0..CANDIDATES).map(|candidate| Capability { candidate, ..gpu });
    let others = [
        capability(large, true, Some(8)),
        capability(large, true, None),
        capability(small, false, None),
        capability(small, true, Some(8)),
    ];
    let f16 = gpus.clone().map(|gpu| Capability { precision: Precision::f16(1), ..gpu });
    gpus.chain(others).chain(f16).collect()
}

/// The dispatches of a case; none where the device is too small for it.
pub(super) fn dispatches(case: &Case, capability: Capability) -> Vec<Dispatch> {
    of_case(case, capability).unwrap_or_default()
}

/// A dispatch of each pipeline; none binds more buffers or has a larger grid than its device can do.
pub(in crate::backend) fn pipelines() -> Vec<Dispatch> {
    pipelines_of(&capabilities())
}

fn pipelines_of(capabilities: &[Capability]) -> Vec<Dispatch> {
    let drawn = draw::cases(1, RANDOM).map(|(_, case, _)| case);
    let cases: Vec<Case> = Op::all_cases().into_iter().chain(drawn).collect();
    let mut found = BTreeMap::new();
    for &capability in capabilities {
        for dispatch in cases.iter().flat_map(|case| dispatches(case, capability)) {
            assert!(
                dispatch.groups.iter().all(|&n| n as usize <= MAX_GROUPS),
                "{}: {:?}",
                dispatch.label,
                dispatch.groups
            );
            let buffers = storage_buffers(&dispatch.kernel);
            assert!(buffers <= capability.storage_buffers, "{}: {buffers} buffers", dispatch.label);
            found.entry(dispatch.key()).or_insert(dispatch);
        }
    }
    found.into_values().collect()
}

/// How many storage buffers the kernel binds.
pub(super) fn storage_buffers(kernel: &Kernel) -> usize {
    let buffer = |binding: &&Binding| matches!(binding.kind, BindingKind::Read | BindingKind::ReadWrite);
    kernel.bindings.iter().filter(buffer).count()
}

/// The kernel's module.
pub(super) fn parse(kernel: &Kernel) -> Module {
    naga::front::wgsl::parse_str(&kernel.source).unwrap_or_else(|e| panic!("{}: {e}", kernel.name))
}

/// The module of a pipeline, its constants filled in.
fn module(dispatch: &Dispatch) -> (Module, ModuleInfo) {
    translate::module(dispatch).unwrap_or_else(|e| panic!("{}: {e}", dispatch.kernel.name))
}

fn to_spirv(module: &Module, info: &ModuleInfo, entry: &str) -> Result<Vec<u32>, String> {
    let options = spv::Options { lang_version: (1, 3), ..Default::default() };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.into() };
    spv::write_vec(module, info, &options, Some(&pipeline)).map_err(|e| format!("SPIR-V: {e}"))
}

fn to_msl(module: &Module, info: &ModuleInfo, entry: &str) -> Result<(), String> {
    let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    let pipeline =
        msl::PipelineOptions { entry_point: Some((ShaderStage::Compute, entry.into())), ..Default::default() };
    msl::write_string(module, info, &options, &pipeline).map(drop).map_err(|e| format!("MSL: {e}"))
}

/// The text as wgpu asks for it, and what the entry point is called there.
fn to_hlsl(
    module: &Module,
    info: &ModuleInfo,
    entry: &str,
    shader_model: hlsl::ShaderModel,
) -> Result<(String, String), String> {
    let options = hlsl::Options {
        shader_model,
        // Where DX12 keeps the number of workgroups.
        special_constants_binding: Some(hlsl::BindTarget { space: 255, ..Default::default() }),
        zero_initialize_workgroup_memory: false,
        restrict_indexing: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, entry.into())) };
    let mut text = String::new();
    let written = hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None);
    let name = written.map_err(|e| format!("HLSL: {e}"))?.entry_point_names.pop().expect("one entry point");
    Ok((text, name.map_err(|e| format!("HLSL: {e}"))?))
}

fn to_glsl(module: &Module, info: &ModuleInfo, entry: &str) -> Result<String, String> {
    let options =
        glsl::Options { version: glsl::Version::Embedded { version: 310, is_webgl: false }, ..Default::default() };
    let pipeline =
        glsl::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.into(), multiview: None };
    let mut text = String::new();
    glsl::Writer::new(&mut text, module, info, &options, &pipeline, Default::default())
        .and_then(|mut writer| writer.write())
        .map_err(|e| format!("GLSL: {e}"))?;
    Ok(text)
}

pub(super) fn uses_subgroups(module: &Module) -> bool {
    let statements = |function: &naga::Function| format!("{:?}", function.body).contains("Subgroup");
    module.functions.iter().any(|(_, function)| statements(function))
        || module.entry_points.iter().any(|entry| statements(&entry.function))
}

/// Whether a kernel needs 16-bit floats.
pub(super) fn uses_f16(kernel: &Kernel) -> bool {
    kernel.source.contains("enable f16;")
}

/// What SPIR-V's own validator says, where it is installed (Debian: spirv-tools).
fn spirv_val(words: &[u32]) -> Option<Result<(), String>> {
    let mut command = Command::new("spirv-val");
    command
        .args(["--target-env", "vulkan1.1", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = command.spawn().ok()?;
    // It may be done before it has read all: its status says what it found.
    let _ = process.stdin.take()?.write_all(bytemuck::cast_slice(words));
    Some(verdict("spirv-val", process.wait_with_output()))
}

/// What the reference compiler of GLSL says of files, where it is installed (Debian: glslang-tools).
fn glslang(files: &[PathBuf]) -> Option<Result<(), String>> {
    let output = Command::new("glslangValidator").args(files).output();
    (!matches!(&output, Err(e) if e.kind() == ErrorKind::NotFound)).then(|| verdict("glslangValidator", output))
}

fn verdict(name: &str, output: std::io::Result<Output>) -> Result<(), String> {
    let output = output.map_err(|e| format!("{name}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if output.status.success() { Ok(()) } else { Err(format!("{name}: {said}")) }
}

/// What is wrong with a pipeline's translations. The GLSL is left in the folder, to be compiled with all others at once: its
/// compiler reads a library of its own first.
fn problems(number: usize, dispatch: &Dispatch, folder: &Path) -> Vec<String> {
    let (module, info) = module(dispatch);
    let Dispatch { kernel, overrides, .. } = dispatch;
    let spirv = to_spirv(&module, &info, kernel.entry);
    let checked = spirv.as_ref().ok().and_then(|words| spirv_val(words)).unwrap_or(Ok(()));
    let mut results = vec![spirv.map(drop), checked, to_msl(&module, &info, kernel.entry)];
    // Shader model 6.0 has subgroups, 6.2 has 16-bit floats; 5.1 is what FXC, Windows' own compiler, takes. GL has neither, and wgpu
    // offers none there.
    if uses_f16(kernel) {
        results.push(to_hlsl(&module, &info, kernel.entry, hlsl::ShaderModel::V6_2).map(drop));
    } else if uses_subgroups(&module) {
        results.push(to_hlsl(&module, &info, kernel.entry, hlsl::ShaderModel::V6_0).map(drop));
    } else {
        results.push(to_hlsl(&module, &info, kernel.entry, hlsl::ShaderModel::V5_1).map(drop));
        let glsl = to_glsl(&module, &info, kernel.entry);
        let file = folder.join(format!("{number} {}.comp", kernel.name));
        results.push(glsl.map(|text| std::fs::write(file, text).unwrap()));
    }
    let told = |problem| format!("{} {overrides:?}: {problem}", kernel.name);
    results.into_iter().filter_map(Result::err).map(told).collect()
}

#[test]
fn every_kernel_translates_for_every_system() {
    let pipelines = pipelines();
    assert!(pipelines.len() > 100, "only {} pipelines: the cases ask for more", pipelines.len());
    let folder = tempfile::tempdir().unwrap();
    let told = |(number, dispatch)| problems(number, dispatch, folder.path());
    let mut problems: Vec<String> = pipelines.par_iter().enumerate().flat_map_iter(told).collect();
    let files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    problems.extend(glslang(&files).and_then(Result::err));
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    // A checker that is there refuses what is no shader.
    let checked = |verdict| match verdict {
        Some(Ok(())) => panic!("a checker takes everything"),
        Some(Err(_)) => "checked",
        None => "not checked: there is no checker",
    };
    let wrong = folder.path().join("wrong.comp");
    std::fs::write(&wrong, "wrong").unwrap();
    let (spirv, glsl) = (checked(spirv_val(&[])), checked(glslang(&[wrong])));
    println!("{} pipelines translated to SPIR-V ({spirv}), MSL, HLSL and GLSL ({glsl})", pipelines.len());
}

/// Vulkan and Metal have matrices; the validator of SPIR-V that Debian has does not know them.
#[test]
fn kernels_of_matrices_translate() {
    let f16 = Precision::f16(1);
    let devices = [(Precision::F32, 8), (f16, 8), (f16, 16)].into_iter().flat_map(|(precision, size)| {
        // Of 10 kernels of a convolution, and 5 of a fully connected layer, these are the ones that follow.
        let matrices = Some(Matrices { size, subgroup: 32 });
        [5, 6, 10, 11].map(|candidate| Capability { precision, matrices, candidate, ..Capability::gpu(128 << 20) })
    });
    let mut pipelines = pipelines_of(&devices.collect::<Vec<_>>());
    pipelines.retain(|dispatch| dispatch.kernel.source.contains("enable wgpu_cooperative_matrix;"));
    let mut names: Vec<&str> = pipelines.iter().map(|dispatch| dispatch.kernel.name.as_ref()).collect();
    names.sort();
    names.dedup(); // with other epilogues
    let expected = [("", 8), ("_f16", 16), ("_f16", 8)]
        .into_iter()
        .flat_map(|(twin, size)| [2, 4].map(|count| format!("conv2d_matrices{twin}.multiply_{size}_{count}")));
    assert_eq!(names, expected.collect::<Vec<_>>());
    for dispatch in &pipelines {
        check_limits(dispatch);
        let (module, info) = module(dispatch);
        to_spirv(&module, &info, dispatch.kernel.entry).unwrap();
        to_msl(&module, &info, dispatch.kernel.entry).unwrap();
    }
}

/// What the compiler that a script of tests/compilers drives says against each of some texts: requests in lines of JSON, the first of a
/// text that calls an unknown function. The library, or the folder of it, is in target/compilers.
fn asked(script: &str, library: &str, arguments: &[&str], requests: &[String]) -> Vec<Option<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = folder.join("target/compilers").join(library);
    let mut command = Command::new("python3");
    // Where a compiler is a folder of libraries, they find each other there.
    command.arg(folder.join("tests/compilers").join(script)).arg(&library).env("LD_LIBRARY_PATH", &library);
    let piped = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = piped.spawn().unwrap();
    process.stdin.take().unwrap().write_all(requests.join("\n").as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}: {}", output.status);
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut answers = lines.lines().map(|line| serde_json::from_str::<Option<String>>(line).unwrap());
    let wrong = answers.next().flatten().unwrap_or_else(|| panic!("{script} takes an unknown function"));
    assert!(wrong.contains("unknown"), "{wrong}");
    let answers: Vec<Option<String>> = answers.collect();
    assert_eq!(answers.len() + 1, requests.len());
    answers
}

/// DXC, with which wgpu compiles for DX12 where it finds it.
#[test]
#[ignore = "needs `tests/compilers/install dxc`"]
fn dxc_takes_every_kernel() {
    let pipelines = pipelines();
    let translate = |dispatch: &Dispatch| {
        let (module, info) = module(dispatch);
        let f16 = uses_f16(&dispatch.kernel);
        let model = if f16 { hlsl::ShaderModel::V6_2 } else { hlsl::ShaderModel::V6_0 };
        (to_hlsl(&module, &info, dispatch.kernel.entry, model).unwrap(), f16)
    };
    let wrong = ("[numthreads(1, 1, 1)] void wrong() { unknown(); }".to_string(), "wrong".to_string());
    let shaders: Vec<_> = [(wrong, false)].into_iter().chain(pipelines.iter().map(translate)).collect();
    let request = |((text, entry), f16): &((String, String), bool)| {
        serde_json::json!({ "text": text, "entry": entry, "f16": f16 }).to_string()
    };
    let requests: Vec<String> = shaders.iter().map(request).collect();
    let answers = asked("dxc.py", "libdxcompiler.so", &[], &requests);
    let told = |(dispatch, answer): (&Dispatch, &Option<String>)| {
        answer.as_ref().map(|e| format!("{} {:?}: {e}", dispatch.kernel.name, dispatch.overrides))
    };
    let problems: Vec<String> = pipelines.iter().zip(&answers).filter_map(told).collect();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    println!("DXC compiles {} pipelines", answers.len());
}

/// No kernel asks for more workgroup memory and invocations than every WebGPU device has; how many buffers it may bind,
/// [`pipelines`] holds against the device that it is for.
#[test]
fn every_kernel_keeps_to_the_default_limits() {
    pipelines().iter().for_each(check_limits);
}

fn check_limits(dispatch: &Dispatch) {
    let kernel = &dispatch.kernel;
    let (module, info) = module(dispatch);
    let entry = module.entry_points.iter().position(|entry| entry.name == kernel.entry).unwrap();
    let invocations: u32 = module.entry_points[entry].workgroup_size.iter().product();
    assert!(invocations as usize <= MAX_INVOCATIONS, "{}: {invocations} invocations", kernel.name);
    assert_eq!(invocations as usize, kernel.invocations(), "{}", kernel.name);
    let used = |space: naga::AddressSpace| {
        let globals = module.global_variables.iter().filter(move |(_, global)| global.space == space);
        globals.filter(|(handle, _)| !info.get_entry_point(entry)[*handle].is_empty())
    };
    let bytes: u32 = used(naga::AddressSpace::WorkGroup)
        .map(|(_, global)| module.types[global.ty].inner.size(module.to_ctx()))
        .sum();
    assert!(bytes <= MAX_WORKGROUP_BYTES, "{}: {bytes} bytes of workgroup memory", kernel.name);
}
