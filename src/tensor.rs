//! Shapes, element types and tensors in host memory. Row-major; pictures are NCHW, convolution weights OIHW.

use std::fmt;
use std::ops::Deref;

/// Extents of a tensor, outermost first (`[N, C, H, W]` for pictures).
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// Number of elements: the product of the extents (1 for a scalar shape `[]`).
    pub fn elements(&self) -> usize {
        self.0.iter().product()
    }

    /// The extents as `[N, C, H, W]`, or a message that says what came instead.
    pub fn nchw(&self) -> Result<[usize; 4], String> {
        <[usize; 4]>::try_from(&self.0[..]).map_err(|_| format!("expected 4 dimensions [N, C, H, W], got {self}"))
    }

    /// The extents as `[rows, columns]`, or a message that says what came instead.
    pub fn matrix(&self) -> Result<[usize; 2], String> {
        <[usize; 2]>::try_from(&self.0[..]).map_err(|_| format!("expected 2 dimensions [N, features], got {self}"))
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(extents: [usize; N]) -> Self {
        Shape(extents.to_vec())
    }
}

impl From<Vec<usize>> for Shape {
    fn from(extents: Vec<usize>) -> Self {
        Shape(extents)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Shape {
    /// `[2, 3, 224, 224]`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Element type of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// 32-bit unsigned integer: labels and random counters.
    U32,
    /// 8-bit unsigned integer: pixels. On a device four are packed in one 32-bit word, first in the low bits.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::U8 => 1,
        }
    }
}

/// Shape and element type of a value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TensorType {
    /// Extents.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
}

impl TensorType {
    /// A tensor type.
    pub fn new(shape: impl Into<Shape>, dtype: DType) -> Self {
        TensorType { shape: shape.into(), dtype }
    }

    /// An f32 tensor type.
    pub fn f32(shape: impl Into<Shape>) -> Self {
        Self::new(shape, DType::F32)
    }

    /// Bytes of all elements, without padding.
    pub fn bytes(&self) -> usize {
        self.shape.elements() * self.dtype.size()
    }
}

/// Elements of a host [`Tensor`].
#[derive(Clone, PartialEq, Debug)]
pub enum Data {
    /// f32 elements.
    F32(Vec<f32>),
    /// u32 elements.
    U32(Vec<u32>),
    /// u8 elements.
    U8(Vec<u8>),
}

/// A dense row-major tensor in host memory.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    shape: Shape,
    data: Data,
}

impl Tensor {
    /// A tensor of `shape`; the number of elements must agree, else the message says both.
    pub fn new(shape: impl Into<Shape>, data: Data) -> Result<Self, String> {
        let shape = shape.into();
        let got = match &data {
            Data::F32(v) => v.len(),
            Data::U32(v) => v.len(),
            Data::U8(v) => v.len(),
        };
        if got != shape.elements() {
            return Err(format!("shape {shape} has {} elements, the data {got}", shape.elements()));
        }
        Ok(Tensor { shape, data })
    }

    /// An f32 tensor.
    pub fn f32(shape: impl Into<Shape>, data: Vec<f32>) -> Result<Self, String> {
        Self::new(shape, Data::F32(data))
    }

    /// A u32 tensor.
    pub fn u32(shape: impl Into<Shape>, data: Vec<u32>) -> Result<Self, String> {
        Self::new(shape, Data::U32(data))
    }

    /// A tensor of type `ty` from its little-endian bytes, which must be exactly as many as the type needs.
    pub fn from_bytes(ty: &TensorType, bytes: &[u8]) -> Result<Self, String> {
        let expected = ty.bytes();
        if bytes.len() != expected {
            return Err(format!("{} of {:?} has {expected} bytes, got {}", ty.shape, ty.dtype, bytes.len()));
        }
        let mut tensor = Self::zeros(ty)?;
        match &mut tensor.data {
            Data::F32(data) => bytemuck::cast_slice_mut(data).copy_from_slice(bytes),
            Data::U32(data) => bytemuck::cast_slice_mut(data).copy_from_slice(bytes),
            Data::U8(data) => data.copy_from_slice(bytes),
        }
        Ok(tensor)
    }

    /// All elements zero, or a message when the machine has not so much memory.
    pub fn zeros(ty: &TensorType) -> Result<Self, String> {
        let n = ty.shape.elements();
        let data = match ty.dtype {
            DType::F32 => Data::F32(zeros(n)?),
            DType::U32 => Data::U32(zeros(n)?),
            DType::U8 => Data::U8(zeros(n)?),
        };
        Ok(Tensor { shape: ty.shape.clone(), data })
    }

    /// Shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Shape and element type.
    pub fn ty(&self) -> TensorType {
        let dtype = match self.data {
            Data::F32(_) => DType::F32,
            Data::U32(_) => DType::U32,
            Data::U8(_) => DType::U8,
        };
        TensorType { shape: self.shape.clone(), dtype }
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The elements as f32, or None for another element type.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            Data::F32(v) => Some(v),
            _ => None,
        }
    }

    /// The elements as u32, or None for another element type.
    pub fn as_u32(&self) -> Option<&[u32]> {
        match &self.data {
            Data::U32(v) => Some(v),
            _ => None,
        }
    }

    /// The elements as u8, or None for another element type.
    pub fn into_u8(self) -> Option<Vec<u8>> {
        match self.data {
            Data::U8(v) => Some(v),
            _ => None,
        }
    }

    /// The elements' bytes in memory order.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::F32(v) => bytemuck::cast_slice(v),
            Data::U32(v) => bytemuck::cast_slice(v),
            Data::U8(v) => v,
        }
    }
}

/// `n` zeros, or a message when the machine has not so much memory.
pub(crate) fn zeros<T: bytemuck::Zeroable + Clone>(n: usize) -> Result<Vec<T>, String> {
    let mut data = Vec::new();
    data.try_reserve_exact(n).map_err(|_| {
        let mib = (n * size_of::<T>()) >> 20;
        format!("the machine has no {mib} MiB of memory left; try a smaller --batch-size or --image-size")
    })?;
    data.resize(n, T::zeroed());
    Ok(data)
}
