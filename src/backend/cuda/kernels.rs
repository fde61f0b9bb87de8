//! The kernels of `shaders/` on a GPU: translated, compiled and loaded once each.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;

use super::compiler::Compiler;
use super::driver::{Context, Function};
use super::translate::{self, PRELUDE, Translated};
use crate::backend::wgpu::dispatch::{Dispatch, Key};
use crate::error::{Error, Result};

/// A kernel on a device.
pub(super) struct Kernel {
    pub function: Function,
    /// Numbers of the bindings that are its parameters, in order.
    pub bindings: Vec<u32>,
}

/// All that were asked for so far.
pub(super) struct Kernels {
    compiler: Compiler,
    loaded: HashMap<Key, Arc<Kernel>>,
}

impl Kernels {
    pub fn new(compiler: Compiler) -> Kernels {
        Kernels { compiler, loaded: HashMap::new() }
    }

    /// Whether the driver takes what the compiler makes.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self, context: &Arc<Context>) -> Result<()> {
        self.of_text(context, "nothing", "KERNEL(1) nothing() {}", [1; 3]).map(drop).map_err(|error| {
            Error::device(format!("NVIDIA's driver does not take what its compiler of kernels, NVRTC, makes: {error}"))
        })
    }

    /// A kernel that is no translation.
    ///
    /// # Errors
    /// What the compiler or the driver say against it.
    pub fn of_text(&self, context: &Arc<Context>, name: &str, text: &str, block: [u32; 3]) -> Result<Function> {
        let code = self.compiler.compile(name, &format!("{PRELUDE}\n{}\n", text.trim()))?;
        Function::load(context, &code, name, block)
    }

    /// The kernel of each dispatch.
    ///
    /// # Errors
    /// What the compilers or the driver say against one.
    pub fn get(&mut self, context: &Arc<Context>, dispatches: &[Dispatch]) -> Result<Vec<Arc<Kernel>>> {
        let missing: HashMap<Key, &Dispatch> = dispatches.iter().map(|dispatch| (dispatch.key(), dispatch)).collect();
        let missing: Vec<_> = missing.into_iter().filter(|(key, _)| !self.loaded.contains_key(key)).collect();
        let load = |(key, dispatch): (Key, &Dispatch)| Ok((key, Arc::new(load(&self.compiler, context, dispatch)?)));
        let loaded: Vec<_> = missing.into_par_iter().map(load).collect::<Result<_>>()?;
        self.loaded.extend(loaded);
        Ok(dispatches.iter().map(|dispatch| self.loaded[&dispatch.key()].clone()).collect())
    }
}

/// The CUDA C++ of a dispatch's kernel, whole.
///
/// # Errors
/// What cannot be translated.
pub(super) fn text(dispatch: &Dispatch) -> Result<Translated> {
    let Dispatch { kernel, .. } = dispatch;
    let translated =
        translate::module(dispatch).and_then(|(module, info)| translate::kernel(&module, &info, kernel.entry));
    translated.map_err(|e| Error::device(format!("{} cannot be translated for CUDA: {e}", kernel.name)))
}

fn load(compiler: &Compiler, context: &Arc<Context>, dispatch: &Dispatch) -> Result<Kernel> {
    let Dispatch { kernel, .. } = dispatch;
    let Translated { text, bindings } = text(dispatch)?;
    let code = compiler.compile(&kernel.name, &text)?;
    Ok(Kernel { function: Function::load(context, &code, kernel.entry, kernel.workgroup)?, bindings })
}
