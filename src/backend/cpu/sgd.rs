//! Stochastic gradient descent with momentum, in place.

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use super::parallel::CHUNK;
use super::simd::vectorised;
use crate::ops::Sgd;

impl CpuOp for Sgd {
    fn run(&self, mut io: Io) {
        let (g, schedule) = (io.f32(1), io.f32(3));
        let state = io.output(0).par_chunks_mut(CHUNK).zip(io.output(1).par_chunks_mut(CHUNK));
        state.zip(g.par_chunks(CHUNK)).for_each(|((w, v), g)| step(self, schedule, w, v, g));
    }
}

vectorised! {
    pub(super) fn step(sgd: &Sgd, schedule: &[f32], w: &mut [f32], v: &mut [f32], g: &[f32]) {
        let lr = schedule[0] * sgd.lr_scale;
        let (momentum, decay, nesterov) = (sgd.momentum, sgd.weight_decay, sgd.nesterov);
        let elements = w.iter_mut().zip(v).zip(g);
        if sgd.paper {
            for ((w, v), &g) in elements {
                *v = momentum * *v - decay * lr * *w - lr * g;
                *w += *v;
            }
        } else {
            for ((w, v), &g) in elements {
                let d = g + decay * *w;
                *v = momentum * *v + d;
                *w -= lr * if nesterov { d + momentum * *v } else { *v };
            }
        }
    }
}
