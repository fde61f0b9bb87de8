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

fn load(compiler: &Compiler, context: &Arc<Context>, dispatch: &Dispatch) -> Result<Kernel> {
    let name = &dispatch.kernel.name;
    let entry = dispatch.kernel.entry;
    let translated = translate::module(dispatch).and_then(|(module, info)| translate::kernel(&module, &info, entry));
    let Translated { text, bindings } =
        translated.map_err(|e| Error::device(format!("{name} cannot be translated for CUDA: {e}")))?;
    let code = compiler.compile(name, &format!("{PRELUDE}\n{text}"))?;
    Ok(Kernel { function: Function::load(context, &code, entry, dispatch.kernel.workgroup)?, bindings })
}
