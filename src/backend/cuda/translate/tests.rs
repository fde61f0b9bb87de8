//! The translated kernels, by the compilers that there are.

use rayon::prelude::*;

use super::*;
use crate::backend::wgpu::translate::{asked, pipelines};

/// Name and CUDA text of every pipeline that any case asks for, but those for Vulkan in software, which read textures.
fn texts() -> Vec<(String, String)> {
    let (mut pipelines, all) = (pipelines(), 300);
    pipelines.retain(|dispatch| !dispatch.kernel.source.contains("texture_storage_2d"));
    assert!(pipelines.len() > all, "only {} pipelines", pipelines.len());
    let translate = |(number, dispatch): (usize, &Dispatch)| {
        let name = format!("{number} {} {:?}", dispatch.kernel.name, dispatch.overrides);
        let translated = module(dispatch).and_then(|(module, info)| kernel(&module, &info, dispatch.kernel.entry));
        let Translated { text, .. } = translated.unwrap_or_else(|e| panic!("{name}: no CUDA for {e}"));
        (name, text)
    };
    pipelines.par_iter().enumerate().map(translate).collect()
}

/// NVRTC, by which a GPU's driver gets them, for the architectures from Turing to Hopper.
#[test]
#[ignore = "needs `tests/compilers/install nvrtc`"]
fn nvrtc_takes_every_kernel() {
    let texts = texts();
    let wrong = ("wrong".to_string(), "KERNEL(1) wrong() { unknown(); }".to_string());
    let request = |(_, text): &(String, String)| serde_json::json!(format!("{PRELUDE}\n{text}")).to_string();
    let requests: Vec<String> = [wrong].iter().chain(&texts).map(request).collect();
    let answers = asked("nvrtc.py", "nvrtc", &["sm_75", "sm_80", "sm_90"], &requests);
    let told =
        |((name, _), answer): (&(String, String), &Option<String>)| answer.as_ref().map(|e| format!("{name}: {e}"));
    let problems: Vec<String> = texts.iter().zip(&answers).filter_map(told).collect();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    println!("NVRTC compiles {} kernels, each for three architectures", answers.len());
}
