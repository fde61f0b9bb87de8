//! Cross entropy of logits against class labels, and its gradient.

use super::CpuOp;
use super::memory::Io;
use super::softmax::log_sum_exp;
use crate::ops::{CrossEntropy, CrossEntropyBackward, IGNORE};

impl CpuOp for CrossEntropy {
    fn run(&self, mut io: Io) {
        let (logits, labels, classes) = (io.f32(0), io.u32(1), io.shape(0)[1]);
        let smoothing = self.label_smoothing as f64;
        let weights = self.weighted.then(|| io.f32(2));
        let (mut loss, mut rows) = (0.0, 0);
        for (row, (x, &label)) in logits.chunks(classes).zip(labels).enumerate() {
            if label == IGNORE {
                continue;
            }
            let (max, log_sum) = log_sum_exp(x);
            // A label beyond the classes is a caller's mistake: NaN, so that the step is seen to fail.
            let own = x.get(label as usize).map_or(f64::NAN, |&x| log_sum - (x as f64 - max));
            let weight = weights.map_or(1.0, |weights| weights[row] as f64);
            loss += weight * (1.0 - smoothing) * own;
            // Without smoothing, an infinite logit of another class does no harm: 0 times infinity would.
            if smoothing > 0.0 {
                let uniform = x.iter().map(|&x| log_sum - (x as f64 - max)).sum::<f64>() / classes as f64;
                loss += weight * smoothing * uniform;
            }
            rows += 1;
        }
        io.output(0)[0] = (loss / rows.max(1) as f64) as f32;
    }
}

impl CpuOp for CrossEntropyBackward {
    fn run(&self, mut io: Io) {
        let (logits, labels, dloss, classes) = (io.f32(0), io.u32(1), io.f32(2)[0], io.shape(0)[1]);
        let smoothing = self.label_smoothing as f64;
        let rows = labels.iter().filter(|&&label| label != IGNORE).count();
        let scale = dloss as f64 / rows.max(1) as f64;
        let weights = self.weighted.then(|| io.f32(3));
        let dlogits = io.output(0).chunks_mut(classes);
        for (row, (dx, (x, &label))) in dlogits.zip(logits.chunks(classes).zip(labels)).enumerate() {
            if label == IGNORE {
                dx.fill(0.0);
                continue;
            }
            let scale = scale * weights.map_or(1.0, |weights| weights[row] as f64);
            let (max, log_sum) = log_sum_exp(x);
            for (class, (dx, &x)) in dx.iter_mut().zip(x).enumerate() {
                let onehot = if class == label as usize { 1.0 - smoothing } else { 0.0 };
                *dx = (scale * ((x as f64 - max - log_sum).exp() - onehot - smoothing / classes as f64)) as f32;
            }
        }
    }
}
