//! Lowering of convolutions and fully connected layers whose kernels add the bias, see `shaders/epilogue.wgsl`.

use super::WgpuOp;
use super::conv2d;
use super::dispatch::Builder;
use super::linear;
use super::lowering::{Lowering, ValueRef, Window};
use crate::error::Result;
use crate::ops::{Biased, Product};

/// What is done to a sum before it is stored. Without one, nothing.
#[derive(Clone, Copy)]
pub(super) struct Epilogue {
    bias: Window,
    relu: bool,
    /// Channel of element (0, 0) of a product's group 0, and how many further on that of the next group, row and column is.
    channels: [u32; 4],
}

impl Epilogue {
    /// The same, of a product whose first channel is `channels` further on.
    pub fn skip(self, channels: usize) -> Self {
        let [first, steps @ ..] = self.channels;
        let [group, row, column] = steps;
        Epilogue { channels: [first + channels as u32, group, row, column], ..self }
    }

    /// Of a product whose channels are its rows, `group` of them in each group.
    pub fn of_rows(self, group: usize) -> Self {
        Epilogue { channels: [self.channels[0], group as u32, 1, 0], ..self }
    }

    /// Of a product whose channels are its columns.
    pub fn of_columns(self) -> Self {
        Epilogue { channels: [self.channels[0], 0, 0, 1], ..self }
    }
}

impl Builder<'_> {
    /// Sets what a kernel does to its sums. `unread` is any window that the kernel may read, for want of a bias.
    pub(super) fn epilogue(self, epilogue: Option<Epilogue>, unread: Window) -> Self {
        match epilogue {
            None => self.bind("bias", unread).set("bias_channels", [0_u32; 4]),
            Some(Epilogue { bias, relu, channels }) => {
                self.constant("EPILOGUE", 1 + u32::from(relu)).bind("bias", bias).set("bias_channels", channels)
            }
        }
    }
}

impl WgpuOp for Biased {
    fn lower(&self, cx: &mut Lowering, inputs: &[ValueRef], outputs: &[ValueRef]) -> Result<()> {
        let (bias, values) = (cx.whole(&inputs[2])?, [&inputs[0], &inputs[1], &outputs[0]]);
        let epilogue = Some(Epilogue { bias, relu: self.relu, channels: [0; 4] });
        match &self.product {
            Product::Conv2d(conv) => conv2d::forward(conv, cx, values, epilogue),
            Product::Linear(op) => linear::forward(op, cx, values, epilogue),
        }
    }
}
