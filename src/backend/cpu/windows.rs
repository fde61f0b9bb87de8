//! Windows that slide over planes, for pools: what is made of a window is made in two steps, along its rows and down its columns.
//! Between the steps it lies in scratch memory, for averages in a line with the picture's columns between those of the padding.

use std::ops::Range;

use super::simd::{LANES, Vector, evens, lanes, load};
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
    #[inline(always)]
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

    /// Elements of an output row, at least a vector.
    #[inline(always)]
    pub fn width(&self) -> usize {
        self.output[1].max(LANES)
    }

    /// Elements with one for each window's part in each of the picture's rows.
    #[inline(always)]
    pub fn parts(&self) -> usize {
        self.input[0] * self.width()
    }

    /// Columns of a window.
    #[inline(always)]
    pub fn kernel(&self) -> usize {
        self.window.kernel[1]
    }

    /// From a window's first column to the next one's.
    #[inline(always)]
    pub fn stride(&self) -> usize {
        self.window.stride[1]
    }

    /// The picture's column under column `tap` of window j, or its first one left of which that is.
    #[inline(always)]
    pub fn column(&self, j: usize, tap: usize) -> usize {
        (j * self.window.stride[1] + tap).saturating_sub(self.window.padding[1])
    }

    /// Row r of the plane x as the windows see it, [`Windows::width`] of them. Where none reaches into padding that is the plane itself, and
    /// what follows the row is under windows that do not count; else the line, with the row between the padding that it holds.
    #[inline(always)]
    pub fn row<'b>(&self, line: &'b mut [f32], x: &'b [f32], r: usize) -> &'b [f32] {
        let (w, rest) = (self.input[1], &x[r * self.input[1]..]);
        let extent = |windows: usize| (windows - 1) * self.stride() + self.kernel();
        let inside = self.window.padding[1] == 0 && extent(self.output[1]) <= w;
        if inside && extent(self.width()) <= rest.len() {
            return rest;
        }
        self.columns(line).copy_from_slice(&rest[..w]);
        line
    }

    /// The picture's columns of a line.
    #[inline(always)]
    pub fn columns<'b>(&self, line: &'b mut [f32]) -> &'b mut [f32] {
        &mut line[self.window.padding[1]..][..self.input[1]]
    }
}

/// Elements 0, `stride`, 2 * `stride`... of x; `STRIDE` is the same, 1 or 2, or 0 for any.
#[inline(always)]
pub(super) fn every<const STRIDE: usize, const FMA: bool>(x: &[f32], stride: usize) -> Vector {
    match STRIDE {
        1 => load(x),
        2 => evens::<FMA>(load(x), load(&x[LANES - 1..])),
        _ => {
            let x = &x[..stride * (LANES - 1) + 1];
            lanes(0.0, |i| x[i * stride])
        }
    }
}

/// Calls the function for the stride, which the compiler knows where it is a common one; in the body of a [`vectorised`] one.
macro_rules! by_stride {
    ($stride:expr, $f:ident($($arg:expr),*)) => {
        match $stride {
            1 => $f::<1, FMA>($($arg),*),
            2 => $f::<2, FMA>($($arg),*),
            _ => $f::<0, FMA>($($arg),*),
        }
    };
}

pub(super) use by_stride;
