//! Padded copies of planes for sliding windows. The columns of a padded row are sorted by `column % stride`, so that what one
//! tap of the window reads for neighbouring outputs lies side by side, whatever the stride, and no loop minds an edge.

use std::ops::Range;

/// A window that slides over planes of `input` and gives planes of `output` (heights and widths).
pub(super) struct Padded {
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
}

impl Padded {
    /// Elements of a padded plane: what the window reaches, no more and no less.
    pub fn plane(&self) -> usize {
        self.reach(0) * self.row()
    }

    /// Where output (p, 0) reads the tap (r, s) in a padded plane; outputs (p, 1), (p, 2)... read the elements after it.
    pub fn place(&self, p: usize, r: usize, s: usize) -> usize {
        self.at(p * self.stride[0] + r * self.dilation[0], s * self.dilation[1])
    }

    /// From [`Padded::place`] of one output row to the next's.
    pub fn step(&self) -> usize {
        self.stride[0] * self.row()
    }

    /// Where a padded plane holds this row and column, counted from the padding's corner.
    pub fn at(&self, row: usize, column: usize) -> usize {
        row * self.row() + column % self.stride[1] * self.phase() + column / self.stride[1]
    }

    /// Copies planes into padded planes, with `fill` around them.
    pub fn spread(&self, padded: &mut [f32], planes: &[f32], fill: f32) {
        padded.fill(fill);
        let ([h, w], stride) = (self.input, self.stride[1]);
        for (padded, plane) in padded.chunks_exact_mut(self.plane()).zip(planes.chunks_exact(h * w)) {
            for i in self.rows() {
                let row = &plane[(i - self.padding[0]) * w..][..w];
                for (phase, columns) in self.phases() {
                    let to = &mut padded[self.at(i, phase) + columns.start..][..columns.len()];
                    let first = columns.start * stride + phase - self.padding[1];
                    if stride == 1 {
                        to.copy_from_slice(&row[first..][..to.len()]);
                    } else {
                        to.iter_mut().zip(row[first..].iter().step_by(stride)).for_each(|(to, from)| *to = *from);
                    }
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
                for (phase, columns) in self.phases() {
                    let from = &padded[self.at(i, phase) + columns.start..][..columns.len()];
                    let first = columns.start * stride + phase - self.padding[1];
                    row[first..].iter_mut().step_by(stride).zip(from).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }

    /// Padded rows or columns that the window reaches.
    fn reach(&self, axis: usize) -> usize {
        (self.output[axis] - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    /// Columns of one remainder by the stride.
    fn phase(&self) -> usize {
        self.reach(1).div_ceil(self.stride[1])
    }

    /// Elements of a padded row.
    fn row(&self) -> usize {
        self.stride[1] * self.phase()
    }

    /// Padded rows that hold a row of the picture.
    fn rows(&self) -> Range<usize> {
        self.padding[0]..self.reach(0).min(self.padding[0] + self.input[0])
    }

    /// For each remainder by the stride, the columns k for which the picture has column `k * stride + remainder - padding`.
    fn phases(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let (stride, left, w, width) = (self.stride[1], self.padding[1], self.input[1], self.phase());
        let columns = move |phase: usize| {
            let first = left.saturating_sub(phase).div_ceil(stride);
            first..(w + left).saturating_sub(phase).div_ceil(stride).min(width)
        };
        (0..stride).map(move |phase| (phase, columns(phase))).filter(|(_, columns)| !columns.is_empty())
    }
}
