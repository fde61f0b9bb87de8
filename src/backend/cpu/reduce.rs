//! Sum and mean of all elements, and the op that spreads one number over a tensor.

use super::memory::Io;
use super::{CpuOp, parallel};
use crate::ops::{Broadcast, Reduce, ReduceKind};

impl CpuOp for Reduce {
    fn run(&self, mut io: Io) {
        let x = io.f32(0);
        let divisor = match self.kind {
            ReduceKind::Sum => 1.0,
            ReduceKind::Mean => x.len() as f64,
        };
        io.output(0)[0] = (parallel::sum(x) / divisor) as f32;
    }
}

impl CpuOp for Broadcast {
    fn run(&self, mut io: Io) {
        parallel::fill(io.output(0), io.f32(0)[0]);
    }
}
