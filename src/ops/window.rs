//! The sliding window of the pooling ops: output sizes and ranges, by PyTorch's rules.

use super::draw::Draw;
use crate::tensor::Shape;

/// Geometry of a pooling window.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Top and bottom, left and right.
    pub padding: [usize; 2],
    /// Rounds output sizes up.
    pub ceil_mode: bool,
}

impl Window {
    /// Shape of the pooled x [N, C, H, W].
    ///
    /// # Errors
    /// A message that says what does not fit.
    pub fn output(&self, x: &Shape) -> Result<[usize; 4], String> {
        let [n, c, h, w] = x.nchw()?;
        Ok([n, c, self.output_extent(0, h)?, self.output_extent(1, w)?])
    }

    fn output_extent(&self, axis: usize, input: usize) -> Result<usize, String> {
        let (kernel, stride, padding) = (self.kernel[axis], self.stride[axis], self.padding[axis]);
        if kernel == 0 || stride == 0 {
            return Err(format!("kernel {kernel} and stride {stride} must be at least 1"));
        }
        // Then every window holds at least one real element.
        if 2 * padding > kernel {
            return Err(format!("padding {padding} is more than half the kernel {kernel}"));
        }
        let Some(room) = (input + 2 * padding).checked_sub(kernel) else {
            return Err(format!(
                "a window of {kernel} does not fit an input of {input} with {padding} of padding on each side; \
                 use larger pictures or a smaller window"
            ));
        };
        if !self.ceil_mode {
            return Ok(room / stride + 1);
        }
        let extent = room.div_ceil(stride) + 1;
        // A last window that would start in the far padding, or beyond, is dropped.
        Ok(if (extent - 1) * stride >= input + padding { extent - 1 } else { extent })
    }

    /// Input positions under output position `output` along `axis`, clipped to the picture of `extent`.
    pub fn range(&self, axis: usize, output: usize, extent: usize) -> std::ops::Range<usize> {
        let start = output * self.stride[axis];
        let end = (start + self.kernel[axis]).saturating_sub(self.padding[axis]).min(extent);
        start.saturating_sub(self.padding[axis])..end
    }
}

impl Window {
    /// A window and the shape of an x that it fits.
    pub(super) fn random(draw: &mut Draw) -> (Window, [usize; 4]) {
        let kernel = draw.pair(1, 11);
        let padding = kernel.map(|kernel| draw.between(0, kernel / 2));
        let window = Window { kernel, stride: draw.pair(1, 4), padding, ceil_mode: draw.below(2) == 1 };
        let mut x = draw.nchw();
        for axis in 0..2 {
            x[2 + axis] = x[2 + axis].max(kernel[axis] - 2 * padding[axis]).max(1);
        }
        (window, x)
    }

    /// Windows that hold one element, at most.
    pub(super) fn overlap(&self) -> usize {
        (0..2).map(|axis| self.kernel[axis].div_ceil(self.stride[axis])).product()
    }
}

/// (name, window, x) of the pooling ops' cases.
pub(super) fn cases() -> Vec<(&'static str, Window, [usize; 4])> {
    let square = |kernel, stride, padding, ceil_mode| Window {
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [padding; 2],
        ceil_mode,
    };
    vec![
        ("one of everything", square(1, 1, 0, false), [1, 1, 1, 1]),
        ("2/2", square(2, 2, 0, false), [2, 3, 8, 9]),
        ("overlapping 3/2", square(3, 2, 0, false), [2, 5, 13, 11]),
        ("overlapping 3/2, padded", square(3, 2, 1, false), [3, 2, 9, 10]),
        ("3/2, ceil", square(3, 2, 0, true), [2, 3, 10, 12]),
        ("3/2, padded, ceil", square(3, 2, 1, true), [1, 4, 8, 7]),
        ("ceil drops the last window", square(2, 3, 1, true), [1, 2, 4, 5]),
        ("gaps between windows", square(2, 5, 0, false), [2, 2, 13, 17]),
        ("5/1", square(5, 1, 2, false), [1, 3, 7, 6]),
        ("not square", Window { kernel: [2, 4], stride: [1, 3], padding: [0, 2], ceil_mode: false }, [2, 3, 6, 11]),
        ("alexnet pool1", square(3, 2, 0, false), [2, 96, 55, 55]),
        ("alexnet pool2", square(3, 2, 0, false), [4, 256, 27, 27]),
        ("alexnet pool5", square(3, 2, 0, false), [13, 256, 13, 13]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AlexNet's pools, and sizes that PyTorch prints.
    #[test]
    fn output_sizes() {
        let extent = |kernel, stride, padding, ceil_mode, input| {
            Window { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2], ceil_mode }
                .output_extent(0, input)
        };
        for (input, output) in [(55, 27), (27, 13), (13, 6)] {
            assert_eq!(extent(3, 2, 0, false, input), Ok(output));
        }
        assert_eq!(extent(3, 2, 0, true, 6), Ok(3));
        assert_eq!(extent(2, 3, 1, true, 4), Ok(2), "a third window would start in the padding");
        assert!(extent(3, 2, 0, false, 2).unwrap_err().contains("does not fit"));
        assert!(extent(3, 2, 2, false, 9).unwrap_err().contains("more than half"));
    }
}
