//! Adam and AdamW: w, m and v updated in one pass, which the memory's bandwidth limits.

use rayon::prelude::*;

use super::CpuOp;
use super::memory::Io;
use super::parallel::CHUNK;
use super::simd::vectorised;
use crate::ops::Adam;

impl CpuOp for Adam {
    fn run(&self, mut io: Io) {
        let (g, schedule) = (io.f32(1), io.f32(4));
        let (w, m, v) = (io.output(0), io.output(1), io.output(2));
        let state = w.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK));
        state.zip(g.par_chunks(CHUNK)).for_each(|(((w, m), v), g)| step(self, schedule, w, m, v, g));
    }
}

vectorised! {
    pub(super) fn step(adam: &Adam, schedule: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        let (lr, inverse_c1, inverse_c2) = (schedule[0] * adam.lr_scale, 1.0 / schedule[1], 1.0 / schedule[2]);
        let (beta1, beta2, epsilon) = (adam.beta1, adam.beta2, adam.epsilon);
        // Decay goes into the gradient (Adam) or straight into the weight (AdamW).
        let (l2, shrink) =
            if adam.decoupled { (0.0, 1.0 - lr * adam.weight_decay) } else { (adam.weight_decay, 1.0) };
        for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(g) {
            let d = g + l2 * *w;
            // In variables: the compiler may not know that a write to v leaves m as it is, and would read it again.
            let first = beta1 * *m + (1.0 - beta1) * d;
            let second = beta2 * *v + (1.0 - beta2) * d * d;
            (*m, *v) = (first, second);
            *w = shrink * *w - lr * (first * inverse_c1) / ((second * inverse_c2).sqrt() + epsilon);
        }
    }
}
