//! Every kernel that any case of any op asks for, as every kind of device would get it, translated for the systems that are
//! not at hand: SPIR-V (Vulkan), MSL (Metal), HLSL (DX12), GLSL (GL). What can be checked of the texts here is checked.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use naga::back::{glsl, hlsl, msl, pipeline_constants::process_overrides, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ShaderStage};
use rayon::prelude::*;

use super::lowering::{ALIGNMENT, Capability, Dispatch, of_case};
use crate::ops::Op;
use crate::ops::case::Case;
use crate::ops::draw;

/// The limits of WebGPU, which every device has: <https://www.w3.org/TR/webgpu/#limits>.
const MAX_INVOCATIONS: usize = 256;
const MAX_WORKGROUP_BYTES: u32 = 16_384;
const MAX_STORAGE_BUFFERS: usize = 8;
const MAX_GROUPS: u32 = 65_535;

/// GPUs, software with and without subgroups, and a device that binds little at once.
pub fn capabilities() -> [Capability; 4] {
    let capability = |max_window, software, subgroup| Capability { max_window, software, subgroup };
    let large = 128 << 20;
    [
        capability(large, false, Some(32)),
        capability(large, true, Some(8)),
        capability(large, true, None),
        capability(64 * 1024 / ALIGNMENT * ALIGNMENT, false, None),
    ]
}

/// Kernel and constants of each pipeline, once.
fn pipelines() -> Vec<Dispatch> {
    let drawn = draw::cases(1, 12).map(|(_, case, _)| case);
    let cases: Vec<Case> = Op::all_cases().into_iter().chain(drawn).collect();
    let mut found = BTreeMap::new();
    for capability in capabilities() {
        for dispatch in cases.iter().flat_map(|case| of_case(case, capability).unwrap_or_default()) {
            assert!(dispatch.groups.iter().all(|&n| n <= MAX_GROUPS), "{}: {:?}", dispatch.label, dispatch.groups);
            let constants = dispatch.overrides.iter().map(|(name, value)| format!("{name} {value}"));
            let key = (dispatch.kernel.name.to_string(), constants.collect::<Vec<_>>());
            found.entry(key).or_insert(dispatch);
        }
    }
    found.into_values().collect()
}

/// The module of a pipeline, its constants filled in.
fn module(dispatch: &Dispatch) -> (Module, ModuleInfo) {
    let kernel = &dispatch.kernel;
    let module = naga::front::wgsl::parse_str(&kernel.source).unwrap_or_else(|e| panic!("{}: {e}", kernel.name));
    let validator = || Validator::new(ValidationFlags::all(), Capabilities::SUBGROUP);
    let info = validator().validate(&module).unwrap_or_else(|e| panic!("{}: {e:?}", kernel.name));
    let constants = dispatch.overrides.iter().map(|&(name, value)| (name.to_string(), value)).collect();
    let entry = Some((ShaderStage::Compute, kernel.entry));
    let (module, info) =
        process_overrides(&module, &info, entry, &constants).unwrap_or_else(|e| panic!("{}: {e}", kernel.name));
    (module.into_owned(), info.into_owned())
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

fn to_hlsl(module: &Module, info: &ModuleInfo, entry: &str) -> Result<(), String> {
    // Shader model 6 has wave operations; 5.1 is what FXC, Windows' own compiler, takes.
    let shader_model = if uses_subgroups(module) { hlsl::ShaderModel::V6_0 } else { hlsl::ShaderModel::V5_1 };
    let options = hlsl::Options { shader_model, ..Default::default() };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, entry.into())) };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .map(drop)
        .map_err(|e| format!("HLSL: {e}"))
}

fn to_glsl(module: &Module, info: &ModuleInfo, entry: &str) -> Result<(), String> {
    let options =
        glsl::Options { version: glsl::Version::Embedded { version: 310, is_webgl: false }, ..Default::default() };
    let pipeline =
        glsl::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.into(), multiview: None };
    let mut text = String::new();
    glsl::Writer::new(&mut text, module, info, &options, &pipeline, Default::default())
        .and_then(|mut writer| writer.write())
        .map(drop)
        .map_err(|e| format!("GLSL: {e}"))
}

fn uses_subgroups(module: &Module) -> bool {
    let statements = |function: &naga::Function| format!("{:?}", function.body).contains("Subgroup");
    module.functions.iter().any(|(_, function)| statements(function))
        || module.entry_points.iter().any(|entry| statements(&entry.function))
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
    process.stdin.take()?.write_all(bytemuck::cast_slice(words)).ok()?;
    let output = process.wait_with_output().ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    Some(if output.status.success() { Ok(()) } else { Err(format!("spirv-val: {said}")) })
}

#[test]
fn every_kernel_translates_for_every_system() {
    let pipelines = pipelines();
    let problems: Vec<String> = pipelines
        .par_iter()
        .flat_map_iter(|dispatch| {
            let (module, info) = module(dispatch);
            let entry = dispatch.kernel.entry;
            let spirv = to_spirv(&module, &info, entry);
            let checked = spirv.as_ref().ok().and_then(|words| spirv_val(words)).unwrap_or(Ok(()));
            let results =
                [spirv.map(drop), checked, to_msl(&module, &info, entry), to_hlsl(&module, &info, entry)].into_iter();
            // GL has no subgroups, and wgpu offers none there.
            let glsl = (!uses_subgroups(&module)).then(|| to_glsl(&module, &info, entry));
            let told = |problem| format!("{} {:?}: {problem}", dispatch.kernel.name, dispatch.overrides);
            results.chain(glsl).filter_map(Result::err).map(told).collect::<Vec<_>>()
        })
        .collect();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    assert!(pipelines.len() > 100, "only {} pipelines: the cases ask for more", pipelines.len());
    let validated = if spirv_val(&[]).is_some() { "and validated" } else { "(spirv-val is not installed)" };
    println!("{} pipelines translated to SPIR-V {validated}, MSL, HLSL and GLSL", pipelines.len());
}

/// No kernel asks for more than the limits that every WebGPU device has.
#[test]
fn every_kernel_keeps_to_the_default_limits() {
    for dispatch in pipelines() {
        let kernel = &dispatch.kernel;
        let (module, info) = module(&dispatch);
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
        let storage = module
            .global_variables
            .iter()
            .filter(|(handle, _)| !info.get_entry_point(entry)[*handle].is_empty())
            .filter(|(_, global)| matches!(global.space, naga::AddressSpace::Storage { .. }));
        assert!(storage.count() <= MAX_STORAGE_BUFFERS, "{}", kernel.name);
    }
}
