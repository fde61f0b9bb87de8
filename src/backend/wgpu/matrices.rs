//! Products by matrices that a subgroup multiplies at once, see `shaders/conv2d_matrices.wgsl`: which the device has, and the kernels
//! of these. They are candidates of convolutions and fully connected layers, never the default: wgpu calls its support experimental.

use super::shaders::{Kernel, conv2d_matrices, conv2d_matrices_f16};
use super::tile::{Tile, Way};
use crate::backend::Precision;

/// Invocations of the kernels' workgroups.
const INVOCATIONS: u32 = 128;

/// Subgroups of a workgroup that have work, at most.
const WORKERS: u32 = 4;

/// By extents of the matrices.
const TILES: [(u32, Tile); 4] = [
    (8, tile(&conv2d_matrices::MULTIPLY_8_2, &conv2d_matrices_f16::MULTIPLY_8_2, 32)),
    (8, tile(&conv2d_matrices::MULTIPLY_8_4, &conv2d_matrices_f16::MULTIPLY_8_4, 64)),
    (16, tile(&conv2d_matrices::MULTIPLY_16_2, &conv2d_matrices_f16::MULTIPLY_16_2, 64)),
    (16, tile(&conv2d_matrices::MULTIPLY_16_4, &conv2d_matrices_f16::MULTIPLY_16_4, 128)),
];

const fn tile(kernel: &'static Kernel, f16: &'static Kernel, side: usize) -> Tile {
    Tile { kernel, f16, rows: side, columns: side }
}

/// Square matrices that a device's subgroups multiply, of what products multiply, into f32.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Matrices {
    /// Rows and columns: 8 or 16.
    pub size: u32,
    /// Invocations of a subgroup, at most: no more than 64.
    pub subgroup: u32,
}

impl Matrices {
    /// The largest of an adapter that the kernels can do with.
    pub(super) fn of(adapter: &wgpu::Adapter, precision: Precision) -> Option<Self> {
        let factor = match precision {
            Precision::F32 => wgpu::CooperativeScalarType::F32,
            Precision::F16 { .. } => wgpu::CooperativeScalarType::F16,
            Precision::Tf32 | Precision::Bf16 => return None,
        };
        let fits = |it: &wgpu::CooperativeMatrixProperties| {
            let square = it.m_size == it.n_size && it.n_size == it.k_size;
            square && (it.ab_type, it.cr_type) == (factor, wgpu::CooperativeScalarType::F32)
        };
        if !adapter.features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            return None;
        }
        let properties = adapter.cooperative_matrix_properties();
        let sizes = properties.iter().filter(|it| fits(it)).map(|it| it.m_size);
        let info = adapter.get_info();
        // On Metal wgpu tells what any device might have; those with matrices have 32.
        let subgroup = if info.backend == wgpu::Backend::Metal { 32 } else { info.subgroup_max_size };
        Some(Matrices { size: sizes.filter(|size| Self::has_kernels(*size, precision)).max()?, subgroup })
            .filter(|it| (INVOCATIONS / WORKERS..=64).contains(&it.subgroup))
    }

    /// Tiles of 16x16 f32 do not fit into the workgroup memory that every device has.
    fn has_kernels(size: u32, precision: Precision) -> bool {
        size == 8 || size == 16 && precision != Precision::F32
    }

    /// The kernels' names and how to run them.
    pub(super) fn ways(self) -> impl Iterator<Item = (&'static str, Way)> {
        let constant = ("SUBGROUPS", f64::from((INVOCATIONS / self.subgroup).min(WORKERS)));
        let tiles = TILES.iter().filter(move |(size, _)| *size == self.size);
        tiles.map(move |(_, tile)| (tile.kernel.entry, Way { tile, constant: Some(constant) }))
    }
}
