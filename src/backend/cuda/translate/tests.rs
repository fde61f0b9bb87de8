//! The translated kernels, by the compilers that there are.

use std::io::Write;
use std::process::{Command, Stdio};

use rayon::prelude::*;

use super::*;
use crate::backend::wgpu::dispatch::Dispatch;
use crate::backend::wgpu::translate::{asked, module, pipelines};

/// Name and CUDA text of every pipeline that any case asks for, but those for Vulkan in software, which read textures.
fn texts() -> Vec<(String, String)> {
    let (mut pipelines, all) = (pipelines(), 300);
    pipelines.retain(|dispatch| !dispatch.kernel.source.contains("texture_storage_2d"));
    assert!(pipelines.len() > all, "only {} pipelines", pipelines.len());
    let translate = |(number, dispatch): (usize, &Dispatch)| {
        let (module, info) = module(dispatch);
        let name = format!("{number} {} {:?}", dispatch.kernel.name, dispatch.overrides);
        let text = kernel(&module, &info, dispatch.kernel.entry).unwrap_or_else(|e| panic!("{name}: no CUDA for {e}"));
        (name, text)
    };
    pipelines.par_iter().enumerate().map(translate).collect()
}

/// The texts are C++, as a compiler for the processor sees it, where there is one.
#[test]
fn every_kernel_is_cuda() {
    let mut file = format!("{}\n{}", include_str!("../host.h"), include_str!("../prelude.cuh"));
    let texts = texts();
    for (number, (name, text)) in texts.iter().enumerate() {
        write!(file, "\n// {name}\nnamespace n{number} {{\n{text}}}\n").unwrap();
    }
    let checked = |text: &str| -> Option<Result<(), String>> {
        let mut command = Command::new("c++");
        command.args(["-std=c++17", "-fsyntax-only", "-Wall", "-Werror", "-Wno-unused"]);
        let piped = command.args(["-x", "c++", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut process = piped.spawn().ok()?;
        let _ = process.stdin.take()?.write_all(text.as_bytes());
        let output = process.wait_with_output().unwrap();
        Some(output.status.success().then_some(()).ok_or(String::from_utf8_lossy(&output.stderr).into()))
    };
    let Some(verdict) = checked(&file) else { return println!("not checked: there is no C++ compiler") };
    verdict.unwrap_or_else(|message| panic!("{message}"));
    assert!(checked(&file.replace("exp2f", "unknown")).unwrap().is_err(), "a compiler takes everything");
    println!("{} kernels are C++", texts.len());
}

/// NVRTC, by which a GPU's driver gets them, for the architectures from Turing to Hopper.
#[test]
#[ignore = "needs `tests/compilers/install nvrtc`"]
fn nvrtc_takes_every_kernel() {
    let texts = texts();
    let wrong = ("wrong".to_string(), "KERNEL(1) wrong() { unknown(); }".to_string());
    let prelude = include_str!("../prelude.cuh");
    let request = |(_, text): &(String, String)| serde_json::json!(format!("{prelude}\n{text}")).to_string();
    let requests: Vec<String> = [wrong].iter().chain(&texts).map(request).collect();
    let answers = asked("nvrtc.py", "nvrtc", &["sm_75", "sm_80", "sm_90"], &requests);
    let told =
        |((name, _), answer): (&(String, String), &Option<String>)| answer.as_ref().map(|e| format!("{name}: {e}"));
    let problems: Vec<String> = texts.iter().zip(&answers).filter_map(told).collect();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    println!("NVRTC compiles {} kernels, each for three architectures", answers.len());
}
