//! Tensors of the whole and of a device's part, in the host's memory.

use crate::error::{Error, Result};
use crate::graph::partition::Layout;
use crate::tensor::{Tensor, TensorType};

/// Device `device`'s part of a tensor.
pub(super) fn part(tensor: &Tensor, layout: &Layout, device: usize) -> Result<Tensor> {
    let Some((axis, range)) = layout.range(device) else { return Ok(tensor.clone()) };
    let ty = tensor.ty();
    let inner = bytes_after(&ty, axis);
    let mut bytes = Vec::with_capacity(layout.local(&ty, device).bytes());
    for row in tensor.bytes().chunks(ty.shape[axis] * inner) {
        bytes.extend_from_slice(&row[range.start * inner..range.end * inner]);
    }
    Tensor::from_bytes(&layout.local(&ty, device), &bytes).map_err(Error::device)
}

/// The tensor whose parts along an axis these are, in the devices' order.
pub(super) fn join(parts: &[Tensor], axis: usize) -> Result<Tensor> {
    let types: Vec<TensorType> = parts.iter().map(Tensor::ty).collect();
    let mut ty = types[0].clone();
    let mut extents = ty.shape.to_vec();
    extents[axis] = types.iter().map(|ty| ty.shape[axis]).sum();
    ty.shape = extents.into();
    let rows: usize = ty.shape[..axis].iter().product();
    let mut bytes = Vec::with_capacity(ty.bytes());
    for row in 0..rows {
        for (part, ty) in parts.iter().zip(&types) {
            let width = ty.shape[axis] * bytes_after(ty, axis);
            bytes.extend_from_slice(&part.bytes()[row * width..][..width]);
        }
    }
    Tensor::from_bytes(&ty, &bytes).map_err(Error::device)
}

/// Bytes from one place along an axis to the next.
fn bytes_after(ty: &TensorType, axis: usize) -> usize {
    ty.shape[axis + 1..].iter().product::<usize>() * ty.dtype.size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_the_whole() {
        let tensor = Tensor::u32([2, 5, 3], (0..30).collect()).unwrap();
        for (axis, bounds) in [(0, vec![0, 1, 2]), (1, vec![0, 2, 3, 5]), (2, vec![0, 1, 3])] {
            let layout = Layout::Split { axis, bounds: bounds.clone() };
            let parts: Vec<Tensor> = (0..bounds.len() - 1).map(|d| part(&tensor, &layout, d).unwrap()).collect();
            assert_eq!(parts[0].shape()[axis], bounds[1]);
            assert_eq!(join(&parts, axis).unwrap(), tensor);
        }
        let second = part(&tensor, &Layout::Split { axis: 1, bounds: vec![0, 3, 5] }, 1).unwrap();
        assert_eq!(second.as_u32().unwrap(), [9, 10, 11, 12, 13, 14, 24, 25, 26, 27, 28, 29]);
        assert_eq!(part(&tensor, &Layout::Whole, 1).unwrap(), tensor);
    }
}
