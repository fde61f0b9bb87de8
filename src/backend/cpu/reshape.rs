//! A view in another shape: the output already has the input's memory.

use super::CpuOp;
use super::memory::Io;
use crate::ops::Reshape;

impl CpuOp for Reshape {
    fn run(&self, _: Io) {}
}
