//! Padded copies of planes for sliding windows. The columns of a padded row are sorted by `column % stride`, so that what one
//! tap of the window reads for neighbouring outputs lies side by side, whatever the stride, and no loop minds an edge.

use std::ops::Range;

use super::simd::vectorised;

/// A window that slides over planes of `input` and gives planes of `output` (heights and widths).
pub(super) struct Padded {
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    /// Padded rows that the window reaches.
    height: usize,
    /// Columns of one remainder by the stride.
    phase: usize,
    /// Of each remainder that the picture has: where its columns start in a padded row, how many there are, and the first of them
    /// in a row of the picture.
    phases: Vec<(usize, usize, usize)>,
    /// Where output (0, 0) reads each tap (r, s) in a padded plane, in row-major order. Outputs (0, 1), (0, 2)... read the elements
    /// after it; those of output row p lie `p * step()` further on.
    pub taps: Vec<usize>,
}

impl Padded {
    /// The window of an op with these options.
    pub fn new(
        input: [usize; 2],
        output: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        dilation: [usize; 2],
    ) -> Self {
        let reach = |axis: usize| (output[axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1;
        let phase = reach(1).div_ceil(stride[1]);
        // Of each remainder: the columns k for which the picture has column `k * stride + remainder - padding`.
        let columns = |remainder: usize| {
            let first = padding[1].saturating_sub(remainder).div_ceil(stride[1]);
            let end = (input[1] + padding[1]).saturating_sub(remainder).div_ceil(stride[1]).min(phase);
            (first < end).then(|| (remainder * phase + first, end - first, first * stride[1] + remainder - padding[1]))
        };
        let phases = (0..stride[1]).filter_map(columns).collect();
        let (height, taps) = (reach(0), Vec::new());
        let mut padded = Padded { input, output, kernel, stride, padding, height, phase, phases, taps };
        let taps = (0..kernel[0]).flat_map(|r| (0..kernel[1]).map(move |s| (r * dilation[0], s * dilation[1])));
        padded.taps = taps.map(|(row, column)| padded.at(row, column)).collect();
        padded
    }

    /// Elements of a padded plane: what the window reaches, no more and no less.
    pub fn plane(&self) -> usize {
        self.height * self.row()
    }

    /// Elements from what one output row reads to what the next one reads.
    pub fn step(&self) -> usize {
        self.stride[0] * self.row()
    }

    /// Copies planes into padded planes, with `fill` around them.
    pub fn spread(&self, padded: &mut [f32], planes: &[f32], fill: f32) {
        padded.fill(fill);
        let ([h, w], stride) = (self.input, self.stride[1]);
        for (padded, plane) in padded.chunks_exact_mut(self.plane()).zip(planes.chunks_exact(h * w)) {
            for i in self.rows() {
                let row = &plane[(i - self.padding[0]) * w..][..w];
                for &(start, count, first) in &self.phases {
                    take_every(stride, &mut padded[i * self.row() + start..][..count], &row[first..]);
                }
            }
        }
    }

    /// The inverse of [`Padded::spread`]. What the window never reaches is 0.
    pub fn collect(&self, planes: &mut [f32], padded: &[f32]) {
        let ([h, w], stride) = (self.input, self.stride[1]);
        for (plane, padded) in planes.chunks_exact_mut(h * w).zip(padded.chunks_exact(self.plane())) {
            plane.fill(0.0);
            for i in self.rows() {
                let row = &mut plane[(i - self.padding[0]) * w..][..w];
                for &(start, count, first) in &self.phases {
                    put_every(stride, &mut row[first..], &padded[i * self.row() + start..][..count]);
                }
            }
        }
    }

    /// Where a padded plane holds this row and column, counted from the padding's corner.
    fn at(&self, row: usize, column: usize) -> usize {
        row * self.row() + column % self.stride[1] * self.phase + column / self.stride[1]
    }

    /// Elements of a padded row.
    fn row(&self) -> usize {
        self.stride[1] * self.phase
    }

    /// Padded rows that hold a row of the picture.
    fn rows(&self) -> Range<usize> {
        self.padding[0]..self.height.min(self.padding[0] + self.input[0])
    }
}

vectorised! {
    /// to[k] = from[k * stride].
    fn take_every(stride: usize, to: &mut [f32], from: &[f32]) {
        #[inline(always)]
        fn by<const STRIDE: usize>(to: &mut [f32], from: &[f32]) {
            let (chunks, rest) = from.as_chunks::<STRIDE>();
            let from = chunks.iter().map(|chunk| chunk[0]).chain(rest.first().copied());
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from);
        }
        // Loops that the compiler can vectorise, for the strides that are common.
        match stride {
            1 => by::<1>(to, from),
            2 => by::<2>(to, from),
            4 => by::<4>(to, from),
            _ => to.iter_mut().enumerate().for_each(|(k, to)| *to = from[k * stride]),
        }
    }
}

vectorised! {
    /// to[k * stride] = from[k].
    fn put_every(stride: usize, to: &mut [f32], from: &[f32]) {
        #[inline(always)]
        fn by<const STRIDE: usize>(to: &mut [f32], from: &[f32]) {
            let (chunks, rest) = to.as_chunks_mut::<STRIDE>();
            let to = chunks.iter_mut().map(|chunk| &mut chunk[0]).chain(rest.first_mut());
            to.zip(from).for_each(|(to, from)| *to = *from);
        }
        match stride {
            1 => by::<1>(to, from),
            2 => by::<2>(to, from),
            4 => by::<4>(to, from),
            _ => from.iter().enumerate().for_each(|(k, from)| to[k * stride] = *from),
        }
    }
}
