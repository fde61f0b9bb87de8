//! Windows that slide over planes, for pools: a row of outputs is made in two steps, down the columns that its windows cover, then
//! along each window. What the first makes lies in a line of scratch memory, the picture's columns between those of the padding.

use std::ops::Range;

use super::simd::{LANES, Vector, lanes};
use crate::ops::window::Window;

/// The windows of a pool.
pub(super) struct Windows {
    /// Height and width of the planes.
    pub input: [usize; 2],
    pub output: [usize; 2],
    window: Window,
}

impl Windows {
    /// Of planes of x that give planes of y.
    pub fn new(window: Window, x: &[usize], y: &[usize]) -> Self {
        Windows { input: [x[2], x[3]], output: [y[2], y[3]], window }
    }

    /// The picture's rows under the windows of output row i.
    pub fn rows(&self, i: usize) -> Range<usize> {
        self.window.range(0, i, self.input[0])
    }

    /// Elements of an output row in whole vectors: short rows would else be spent on the rest.
    pub fn vectors(&self) -> usize {
        self.output[1].next_multiple_of(LANES)
    }

    /// Elements of a line with a number for each of the picture's columns, between those of the padding and what the last vector
    /// of outputs reads.
    pub fn line(&self) -> usize {
        let read = self.vectors() * self.window.stride[1] + self.window.kernel[1];
        read.max(self.window.padding[1] + self.input[1])
    }

    /// The picture's columns of a line.
    pub fn columns<'b>(&self, line: &'b mut [f32]) -> &'b mut [f32] {
        &mut line[self.window.padding[1]..][..self.input[1]]
    }
}

/// Elements 0, `stride`, 2 * `stride`... of x; `STRIDE` is the same, or 0 for any.
#[inline(always)]
pub(super) fn every<const STRIDE: usize>(x: &[f32], stride: usize) -> Vector {
    match STRIDE {
        0 => {
            let x = &x[..stride * (LANES - 1) + 1];
            lanes(0.0, |i| x[i * stride])
        }
        1 => lanes(0.0, |i| x[i]),
        _ => {
            let x = &x[..STRIDE * LANES];
            lanes(0.0, |i| x[i * STRIDE])
        }
    }
}

/// Calls the function for the stride, which the compiler knows where it is a common one.
macro_rules! by_stride {
    ($stride:expr, $f:ident($($arg:expr),*)) => {
        match $stride {
            1 => $f::<1>($($arg),*),
            2 => $f::<2>($($arg),*),
            _ => $f::<0>($($arg),*),
        }
    };
}

pub(super) use by_stride;
