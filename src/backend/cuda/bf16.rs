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

/// From [channels, places] to [places, room], of each picture; where there is more room than channels, zeros.
const NARROW_NHWC: &str = "
KERNEL(256) narrow_nhwc(const float* x, unsigned short* y, unsigned channels, unsigned room, unsigned places) {
    __shared__ unsigned short square[32][33];
    unsigned column = threadIdx.x % 32, row = threadIdx.x / 32;
    unsigned place = blockIdx.x * 32, channel = blockIdx.y * 32;
    x += size_t(blockIdx.z) * channels * places;
    y += size_t(blockIdx.z) * room * places;
    for (unsigned n = row; n < 32; n += 8) {
        bool there = channel + n < channels && place + column < places;
        square[n][column] = there ? rounded(x[size_t(channel + n) * places + place + column]) : 0;
    }
    __syncthreads();
    for (unsigned n = row; n < 32; n += 8) {
        if (place + n < places && channel + column < room) {
            y[size_t(place + n) * room + channel + column] = square[column][n];
        }
    }
}
";

/// From [places, room] to [channels, places], of each picture.
const WIDEN_NHWC: &str = "
KERNEL(256) widen_nhwc(const unsigned short* x, float* y, unsigned channels, unsigned room, unsigned places) {
    __shared__ unsigned short square[32][33];
    unsigned column = threadIdx.x % 32, row = threadIdx.x / 32;
    unsigned place = blockIdx.x * 32, channel = blockIdx.y * 32;
    x += size_t(blockIdx.z) * room * places;
    y += size_t(blockIdx.z) * channels * places;
    for (unsigned n = row; n < 32; n += 8) {
        if (place + n < places && channel + column < channels) {
            square[n][column] = x[size_t(place + n) * room + channel + column];
        }
    }
    __syncthreads();
    for (unsigned n = row; n < 32; n += 8) {
        if (channel + n < channels && place + column < places) {
            y[size_t(channel + n) * places + place + column] = bitcast<float>(unsigned(square[column][n]) << 16);
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

    /// A tensor of f32 in NCHW at `from` becomes one of bfloat16 at `to`, if so asked in NHWC with `room` for so many channels.
    pub fn narrow(&self, stream: &Stream, at: [u64; 2], extents: [usize; 4], room: Option<usize>) -> Result<()> {
        run(&self.narrow, stream, at, extents, room)
    }

    /// The other way.
    pub fn widen(&self, stream: &Stream, at: [u64; 2], extents: [usize; 4], room: Option<usize>) -> Result<()> {
        run(&self.widen, stream, at, extents, room)
    }
}

fn run(
    [plain, turning]: &[Function; 2],
    stream: &Stream,
    [mut from, mut to]: [u64; 2],
    [n, channels, h, w]: [usize; 4],
    room: Option<usize>,
) -> Result<()> {
    let number = |n: usize| u32::try_from(n).map_err(|_| Error::device("a tensor of more than 2^32 elements"));
    let places = h * w;
    // The order stays where there is but one channel or one place.
    let room = room.filter(|&room| room > channels || channels > 1 && places > 1);
    let (function, mut numbers, groups) = match room {
        Some(room) => {
            let numbers = vec![number(channels)?, number(room)?, number(places)?];
            (turning, numbers, [places.div_ceil(SIDE), room.div_ceil(SIDE), n])
        }
        None => {
            let count = n * channels * places;
            (plain, vec![number(count)?], [count.div_ceil(EACH * THREADS), 1, 1])
        }
    };
    let mut arguments: Vec<*mut c_void> = vec![(&raw mut from).cast(), (&raw mut to).cast()];
    arguments.extend(numbers.iter_mut().map(|number| std::ptr::from_mut(number).cast::<c_void>()));
    stream.launch(function, groups.map(|n| n as u32), &mut arguments)
}
