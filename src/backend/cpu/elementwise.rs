//! Element-wise arithmetic.

use super::memory::Io;
use super::{CpuOp, parallel};
use crate::ops::{Add, Fill, Mul, Scale};

impl CpuOp for Add {
    fn run(&self, mut io: Io) {
        parallel::map2(io.output(0), io.f32(0), io.f32(1), |a, b| a + b);
    }
}

impl CpuOp for Mul {
    fn run(&self, mut io: Io) {
        parallel::map2(io.output(0), io.f32(0), io.f32(1), |a, b| a * b);
    }
}

impl CpuOp for Scale {
    fn run(&self, mut io: Io) {
        parallel::map(io.output(0), io.f32(0), |x| x * self.factor);
    }
}

impl CpuOp for Fill {
    fn run(&self, mut io: Io) {
        parallel::fill(io.output(0), self.value);
    }
}
