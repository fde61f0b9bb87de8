//! From f32 to bfloat16 and back, for libraries that want what they multiply in it; on the way from channels apart (NCHW) to channels
//! together (NHWC), and back, where they are faster so.

use std::ffi::c_void;
use std::sync::Arc;

use super::driver::{Context, Function, Stream};
use super::kernels::Kernels;
use crate::error::{Error, Result};

/// Elements of a thread that keeps their order, which writes or reads two together.
const EACH: usize = 2;
const THREADS: usize = 256;

/// Side of the squares in which a thread block changes the order.
const SIDE: usize = 32;

/// Blocks that a grid may have in its second and third dimension.
const MOST_BLOCKS: usize = 65_535;

/// To the nearest bfloat16, ties to even: the upper half of the bits. What is no number stays none.
const ROUNDED: &str = "
__device__ inline unsigned rounded(float x) {
    unsigned bits = bitcast<unsigned>(x);
    return (bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
";

const NARROW: &str = "
KERNEL(256) narrow(const float* x, unsigned* y, unsigned count) {
    unsigned at = 2 * (blockIdx.x * 256 + threadIdx.x);
    if (at >= count) return;
    y[at / 2] = rounded(x[at]) | (at + 1 < count ? rounded(x[at + 1]) << 16 : 0);
}
";

const WIDEN: &str = "
KERNEL(256) widen(const unsigned* x, float* y, unsigned count) {
    unsigned at = 2 * (blockIdx.x * 256 + threadIdx.x);
    if (at >= count) return;
    unsigned pair = x[at / 2];
    y[at] = bitcast<float>(pair << 16);
    if (at + 1 < count) y[at + 1] = bitcast<float>(pair & 0xffff0000);
}
";

/// From [channels, places] to [places, channels], of each picture.
const NARROW_NHWC: &str = "
KERNEL(256) narrow_nhwc(const float* x, unsigned short* y, unsigned channels, unsigned places) {
    __shared__ unsigned short square[32][33];
    unsigned column = threadIdx.x % 32, row = threadIdx.x / 32;
    unsigned place = blockIdx.x * 32, channel = blockIdx.y * 32;
    size_t picture = size_t(blockIdx.z) * channels * places;
    for (unsigned n = row; n < 32; n += 8) {
        if (channel + n < channels && place + column < places) {
            square[n][column] = rounded(x[picture + size_t(channel + n) * places + place + column]);
        }
    }
    __syncthreads();
    for (unsigned n = row; n < 32; n += 8) {
        if (place + n < places && channel + column < channels) {
            y[picture + size_t(place + n) * channels + channel + column] = square[column][n];
        }
    }
}
";

/// From [places, channels] to [channels, places], of each picture.
const WIDEN_NHWC: &str = "
KERNEL(256) widen_nhwc(const unsigned short* x, float* y, unsigned channels, unsigned places) {
    __shared__ unsigned short square[32][33];
    unsigned column = threadIdx.x % 32, row = threadIdx.x / 32;
    unsigned place = blockIdx.x * 32, channel = blockIdx.y * 32;
    size_t picture = size_t(blockIdx.z) * channels * places;
    for (unsigned n = row; n < 32; n += 8) {
        if (place + n < places && channel + column < channels) {
            square[n][column] = x[picture + size_t(place + n) * channels + channel + column];
        }
    }
    __syncthreads();
    for (unsigned n = row; n < 32; n += 8) {
        if (channel + n < channels && place + column < places) {
            y[picture + size_t(channel + n) * places + place + column] = bitcast<float>(unsigned(square[column][n]) << 16);
        }
    }
}
";

/// The kernels, by their names.
pub(super) fn texts() -> [(&'static str, String); 4] {
    let kernels = [("narrow", NARROW), ("widen", WIDEN), ("narrow_nhwc", NARROW_NHWC), ("widen_nhwc", WIDEN_NHWC)];
    kernels.map(|(name, text)| (name, format!("{ROUNDED}{text}")))
}

/// Both ways, in both orders, loaded.
pub(super) struct Casts {
    narrow: [Function; 2],
    widen: [Function; 2],
}

/// Whether tensors of these extents can change their order: there are not too many pictures for a grid.
pub(super) fn can_turn(extents: &[[usize; 4]]) -> bool {
    extents.iter().all(|&[n, channels, ..]| n <= MOST_BLOCKS && channels.div_ceil(SIDE) <= MOST_BLOCKS)
}

impl Casts {
    pub fn new(kernels: &Kernels, context: &Arc<Context>) -> Result<Casts> {
        let load = |(name, text): (&str, String)| kernels.of_text(context, name, &text, [THREADS as u32, 1, 1]);
        let [narrow, widen, narrow_nhwc, widen_nhwc] = texts().map(load);
        Ok(Casts { narrow: [narrow?, narrow_nhwc?], widen: [widen?, widen_nhwc?] })
    }

    /// A tensor of f32 in NCHW at `from` becomes one of bfloat16 at `to`, in NHWC if so asked.
    pub fn narrow(&self, stream: &Stream, [from, to]: [u64; 2], extents: [usize; 4], nhwc: bool) -> Result<()> {
        run(&self.narrow, stream, [from, to], extents, nhwc)
    }

    /// The other way.
    pub fn widen(&self, stream: &Stream, [from, to]: [u64; 2], extents: [usize; 4], nhwc: bool) -> Result<()> {
        run(&self.widen, stream, [from, to], extents, nhwc)
    }
}

fn run(
    [plain, turning]: &[Function; 2],
    stream: &Stream,
    [mut from, mut to]: [u64; 2],
    [n, channels, h, w]: [usize; 4],
    nhwc: bool,
) -> Result<()> {
    let number = |n: usize| u32::try_from(n).map_err(|_| Error::device("a tensor of more than 2^32 elements"));
    let (places, turns) = (h * w, nhwc && channels > 1 && h * w > 1);
    let (function, mut numbers, groups) = match turns {
        true => {
            (turning, vec![number(channels)?, number(places)?], [places.div_ceil(SIDE), channels.div_ceil(SIDE), n])
        }
        false => {
            let count = n * channels * places;
            (plain, vec![number(count)?], [count.div_ceil(EACH * THREADS), 1, 1])
        }
    };
    let mut arguments: Vec<*mut c_void> = vec![(&raw mut from).cast(), (&raw mut to).cast()];
    arguments.extend(numbers.iter_mut().map(|number| std::ptr::from_mut(number).cast::<c_void>()));
    stream.launch(function, groups.map(|n| n as u32), &mut arguments)
}
