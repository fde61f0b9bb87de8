//! Lowering of convolutions.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use crate::error::{Error, Result};
use crate::ops::{Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight};

macro_rules! missing {
    ($($op:ident),+) => {
        $(impl WgpuOp for $op {
            fn lower(&self, _: &mut Lowering, _: &[ValueRef], _: &[ValueRef]) -> Result<()> {
                Err(Error::Unsupported { op: stringify!($op).into(), by: "wgpu".into(), hint: "use --adapter cpu".into() })
            }
        })+
    };
}
missing!(Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight);
