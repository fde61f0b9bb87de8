//! Mixing of pictures with those of the opposite rows.

use rayon::prelude::*;

use super::memory::Io;
use super::{CpuOp, simd::vectorised};
use crate::ops::Mix;

impl CpuOp for Mix {
    fn run(&self, mut io: Io) {
        let (x, plan, mixed, shape) = (io.f32(0), io.f32(1), io.output(0), io.shape(0));
        let (row, width) = (x.len() / shape[0], shape[3]);
        let others = x.par_chunks(row).rev();
        let plans = plan.as_chunks().0.par_iter();
        let rows = mixed.par_chunks_mut(row).zip(x.par_chunks(row)).zip(others).zip(plans);
        rows.for_each(|(((mixed, own), other), &[share, top, left, bottom, right])| {
            let lines = mixed.chunks_mut(width).zip(own.chunks(width)).zip(other.chunks(width)).enumerate();
            for (line, ((mixed, own), other)) in lines {
                blend(mixed, own, other, share);
                let i = (line % shape[2]) as f32;
                if top <= i && i < bottom {
                    let column = |edge: f32| (edge.ceil() as usize).min(width);
                    let boxed = column(left)..column(right).max(column(left));
                    mixed[boxed.clone()].copy_from_slice(&other[boxed]);
                }
            }
        });
    }
}

vectorised! {
    fn blend(mixed: &mut [f32], own: &[f32], other: &[f32], share: f32) {
        for ((mixed, own), other) in mixed.iter_mut().zip(own).zip(other) {
            *mixed = share * own + (1.0 - share) * other;
        }
    }
}
