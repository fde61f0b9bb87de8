//! The optimizer's step on several small parameters, one after the other.

use super::CpuOp;
use super::memory::Io;
use super::{adam, sgd};
use crate::ops::{MultiUpdate, UpdateRule};

impl CpuOp for MultiUpdate {
    fn run(&self, mut io: Io) {
        let schedule = io.f32(io.inputs() - 1);
        let [inputs, outputs] = self.counts();
        for (number, rule) in self.rules.iter().enumerate() {
            let g = io.f32(number * inputs + 1);
            let first = number * outputs;
            match rule {
                UpdateRule::Adam(rule) => {
                    let (w, m, v) = (io.output(first), io.output(first + 1), io.output(first + 2));
                    adam::step(rule, schedule, w, m, v, g);
                }
                UpdateRule::Sgd(rule) => sgd::step(rule, schedule, io.output(first), io.output(first + 1), g),
            }
        }
    }
}
