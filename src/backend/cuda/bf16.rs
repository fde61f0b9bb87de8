//! From f32 to bfloat16 and back, for libraries that want what they multiply in it.

use std::ffi::c_void;
use std::sync::Arc;

use super::driver::{Context, Function, Stream};
use super::kernels::Kernels;
use crate::error::{Error, Result};

/// Elements of a thread, which writes or reads two together.
const EACH: usize = 2;
const THREADS: usize = 256;

/// To the nearest bfloat16, ties to even: the upper half of the bits. What is no number stays none.
pub(super) const NARROW: &str = "
KERNEL(256) narrow(const float* x, unsigned* y, unsigned count) {
    unsigned at = 2 * (blockIdx.x * 256 + threadIdx.x);
    if (at >= count) return;
    unsigned pair = 0;
    for (unsigned n = 0; n < 2 && at + n < count; n++) {
        unsigned bits = bitcast<unsigned>(x[at + n]);
        unsigned upper = (bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        pair |= upper << 16 * n;
    }
    y[at / 2] = pair;
}
";

pub(super) const WIDEN: &str = "
KERNEL(256) widen(const unsigned* x, float* y, unsigned count) {
    unsigned at = 2 * (blockIdx.x * 256 + threadIdx.x);
    if (at >= count) return;
    unsigned pair = x[at / 2];
    y[at] = bitcast<float>(pair << 16);
    if (at + 1 < count) y[at + 1] = bitcast<float>(pair & 0xffff0000);
}
";

/// Both ways, loaded.
pub(super) struct Casts {
    narrow: Function,
    widen: Function,
}

impl Casts {
    pub fn new(kernels: &Kernels, context: &Arc<Context>) -> Result<Casts> {
        let load = |name: &str, text: &str| kernels.of_text(context, name, text, [THREADS as u32, 1, 1]);
        Ok(Casts { narrow: load("narrow", NARROW)?, widen: load("widen", WIDEN)? })
    }

    /// `count` f32 at `from` become bfloat16 at `to`.
    pub fn narrow(&self, stream: &Stream, from: u64, to: u64, count: usize) -> Result<()> {
        run(&self.narrow, stream, from, to, count)
    }

    /// The other way.
    pub fn widen(&self, stream: &Stream, from: u64, to: u64, count: usize) -> Result<()> {
        run(&self.widen, stream, from, to, count)
    }
}

fn run(function: &Function, stream: &Stream, mut from: u64, mut to: u64, count: usize) -> Result<()> {
    let mut elements = u32::try_from(count).map_err(|_| Error::device("a tensor of more than 2^32 elements"))?;
    let mut arguments: [*mut c_void; 3] = [(&raw mut from).cast(), (&raw mut to).cast(), (&raw mut elements).cast()];
    stream.launch(function, [count.div_ceil(EACH * THREADS) as u32, 1, 1], &mut arguments)
}
