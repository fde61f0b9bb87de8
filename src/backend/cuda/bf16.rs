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

/// [`NARROW_NHWC`] for few channels, such as pictures', and room for eight: a thread for each place.
const NARROW_EIGHT: &str = "
KERNEL(256) narrow_eight(const float* x, unsigned* y, unsigned channels, unsigned places) {
    unsigned place = blockIdx.x * 256 + threadIdx.x;
    if (place >= places) return;
    x += size_t(blockIdx.z) * channels * places + place;
    y += (size_t(blockIdx.z) * places + place) * 4;
    for (unsigned c = 0; c < 8; c += 2) {
        unsigned low = c < channels ? rounded(x[size_t(c) * places]) : 0;
        y[c / 2] = low | (c + 1 < channels ? rounded(x[size_t(c + 1) * places]) << 16 : 0);
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
pub(super) fn texts() -> [(&'static str, String); 5] {
    let kernels = [
        ("narrow", NARROW),
        ("widen", WIDEN),
        ("narrow_nhwc", NARROW_NHWC),
        ("widen_nhwc", WIDEN_NHWC),
        ("narrow_eight", NARROW_EIGHT),
    ];
    kernels.map(|(name, text)| (name, format!("{ROUNDED}{text}")))
}

/// The kernels, loaded.
pub(super) struct Casts {
    narrow: Function,
    widen: Function,
    narrow_nhwc: Function,
    widen_nhwc: Function,
    narrow_eight: Function,
}

/// Whether tensors of these extents can change their order: there are not too many pictures for a grid.
pub(super) fn can_turn(extents: &[[usize; 4]]) -> bool {
    extents.iter().all(|&[n, channels, ..]| n <= MOST_BLOCKS && channels.div_ceil(SIDE) <= MOST_BLOCKS)
}

impl Casts {
    pub fn new(kernels: &Kernels, context: &Arc<Context>) -> Result<Casts> {
        let load = |(name, text): (&str, String)| kernels.of_text(context, name, &text, [THREADS as u32, 1, 1]);
        let [narrow, widen, narrow_nhwc, widen_nhwc, narrow_eight] = texts().map(load);
        Ok(Casts {
            narrow: narrow?,
            widen: widen?,
            narrow_nhwc: narrow_nhwc?,
            widen_nhwc: widen_nhwc?,
            narrow_eight: narrow_eight?,
        })
    }

    /// A tensor of f32 in NCHW at `from` becomes one of bfloat16 at `to`, if so asked in NHWC with `room` for so many channels.
    pub fn narrow(&self, stream: &Stream, at: [u64; 2], extents: [usize; 4], room: Option<usize>) -> Result<()> {
        let [n, channels, h, w] = extents;
        let places = h * w;
        match turning(extents, room) {
            Some(8) if channels < 8 => {
                launch(stream, &self.narrow_eight, at, &[channels, places], [places.div_ceil(THREADS), 1, n])
            }
            Some(room) => turn(stream, &self.narrow_nhwc, at, extents, room),
            None => keep(stream, &self.narrow, at, n * channels * places),
        }
    }

    /// The other way.
    pub fn widen(&self, stream: &Stream, at: [u64; 2], extents: [usize; 4], room: Option<usize>) -> Result<()> {
        match turning(extents, room) {
            Some(room) => turn(stream, &self.widen_nhwc, at, extents, room),
            None => keep(stream, &self.widen, at, extents.iter().product()),
        }
    }
}

/// The room for channels, where the order of elements changes: it stays where there is but one channel or one place.
fn turning([_, channels, h, w]: [usize; 4], room: Option<usize>) -> Option<usize> {
    room.filter(|&room| room > channels || channels > 1 && h * w > 1)
}

fn turn(
    stream: &Stream,
    function: &Function,
    at: [u64; 2],
    [n, channels, h, w]: [usize; 4],
    room: usize,
) -> Result<()> {
    let groups = [(h * w).div_ceil(SIDE), room.div_ceil(SIDE), n];
    launch(stream, function, at, &[channels, room, h * w], groups)
}

fn keep(stream: &Stream, function: &Function, at: [u64; 2], count: usize) -> Result<()> {
    launch(stream, function, at, &[count], [count.div_ceil(EACH * THREADS), 1, 1])
}

fn launch(stream: &Stream, function: &Function, mut at: [u64; 2], numbers: &[usize], groups: [usize; 3]) -> Result<()> {
    let number = |&n: &usize| u32::try_from(n).map_err(|_| Error::device("a tensor of more than 2^32 elements"));
    let mut numbers: Vec<u32> = numbers.iter().map(number).collect::<Result<_>>()?;
    let mut arguments: Vec<*mut c_void> = at.iter_mut().map(|address| std::ptr::from_mut(address).cast()).collect();
    arguments.extend(numbers.iter_mut().map(|number| std::ptr::from_mut(number).cast::<c_void>()));
    stream.launch(function, groups.map(|n| n as u32), &mut arguments)
}
