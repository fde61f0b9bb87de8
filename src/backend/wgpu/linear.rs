//! Lowering of fully connected layers.

use super::WgpuOp;
use super::lowering::{Lowering, ValueRef};
use crate::error::{Error, Result};
use crate::ops::{Linear, LinearBackwardInput, LinearBackwardWeight};

macro_rules! missing {
    ($($op:ident),+) => {
        $(impl WgpuOp for $op {
            fn lower(&self, _: &mut Lowering, _: &[ValueRef], _: &[ValueRef]) -> Result<()> {
                Err(Error::Unsupported { op: stringify!($op).into(), by: "wgpu".into(), hint: "use --adapter cpu".into() })
            }
        })+
    };
}
missing!(Linear, LinearBackwardInput, LinearBackwardWeight);
