//! Copies of tensors as tensor cores like them, and back: rounded to bfloat16, with channels that lie apart (NCHW) put together (NHWC), or
//! both.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use super::driver::{Context, Function, Stream};
use super::kernels::Kernels;
use crate::backend::Precision;
use crate::error::{Error, Result};

/// Elements of a thread that keeps their order, which writes or reads two together.
const EACH: usize = 2;
const THREADS: usize = 256;

/// Side of the squares in which a thread block changes the order.
const SIDE: usize = 32;

/// Blocks that a grid may have in its second and third dimension.
const MOST_BLOCKS: usize = 65_535;

/// What the elements of a copy are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Element {
    Bf16,
    /// As they were; the libraries take of them what TF32 has.
    F32,
}

impl Element {
    /// Of copies for tensor cores at this precision; plain f32 has no use for them.
    pub fn of(precision: Precision) -> Option<Element> {
        match precision {
            Precision::Bf16 => Some(Element::Bf16),
            Precision::Tf32 => Some(Element::F32),
            Precision::F32 | Precision::F16 { .. } => None,
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Element::Bf16 => 2,
            Element::F32 => 4,
        }
    }

    /// Tensor cores take 16 bytes of channels at a time.
    pub fn channels(self) -> usize {
        16 / self.bytes()
    }

    /// C++ of what the kernels below say of it.
    fn text(self) -> String {
        match self {
            Element::Bf16 => format!(
                "{ROUNDED}
#define ELEMENT unsigned short
#define INTO(x) rounded(x)
#define FROM(x) bitcast<float>(unsigned(x) << 16)
"
            ),
            Element::F32 => "
#define ELEMENT float
#define INTO(x) x
#define FROM(x) x
"
            .into(),
        }
    }
}

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
const TOGETHER: &str = "
KERNEL(256) together(const float* x, ELEMENT* y, unsigned channels, unsigned room, unsigned places) {
    __shared__ ELEMENT square[32][33];
    unsigned column = threadIdx.x % 32, row = threadIdx.x / 32;
    unsigned place = blockIdx.x * 32, channel = blockIdx.y * 32;
    x += size_t(blockIdx.z) * channels * places;
    y += size_t(blockIdx.z) * room * places;
    for (unsigned n = row; n < 32; n += 8) {
        bool there = channel + n < channels && place + column < places;
        square[n][column] = there ? INTO(x[size_t(channel + n) * places + place + column]) : 0;
    }
    __syncthreads();
    for (unsigned n = row; n < 32; n += 8) {
        if (place + n < places && channel + column < room) {
            y[size_t(place + n) * room + channel + column] = square[column][n];
        }
    }
}
";

/// [`TOGETHER`] for few channels, such as pictures', and room for eight bfloat16: a thread for each place.
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
const APART: &str = "
KERNEL(256) apart(const ELEMENT* x, float* y, unsigned channels, unsigned room, unsigned places) {
    __shared__ ELEMENT square[32][33];
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
            y[size_t(channel + n) * places + place + column] = FROM(square[column][n]);
        }
    }
}
";

/// The kernels for an element, by their names; those that keep the order, and the one for few channels, round.
pub(super) fn texts(element: Element) -> Vec<(&'static str, String)> {
    let mut kernels = vec![("together", TOGETHER), ("apart", APART)];
    if element == Element::Bf16 {
        kernels.extend([("narrow", NARROW), ("widen", WIDEN), ("narrow_eight", NARROW_EIGHT)]);
    }
    let head = element.text();
    kernels.into_iter().map(|(name, text)| (name, format!("{head}{text}"))).collect()
}

/// The kernels for an element, loaded.
pub(super) struct Casts {
    pub element: Element,
    functions: HashMap<&'static str, Function>,
}

/// Whether tensors of these extents can change their order: there are not too many pictures for a grid.
pub(super) fn can_turn(extents: &[[usize; 4]]) -> bool {
    extents.iter().all(|&[n, channels, ..]| n <= MOST_BLOCKS && channels.div_ceil(SIDE) <= MOST_BLOCKS)
}

impl Casts {
    pub fn new(kernels: &Kernels, context: &Arc<Context>, element: Element) -> Result<Casts> {
        let load = |(name, text): (&'static str, String)| {
            Ok((name, kernels.of_text(context, name, &text, [THREADS as u32, 1, 1])?))
        };
        Ok(Casts { element, functions: texts(element).into_iter().map(load).collect::<Result<_>>()? })
    }

    /// A tensor of f32 in NCHW at `from` is copied to `to`, if so asked in NHWC with `room` for so many channels.
    pub fn copy(&self, stream: &Stream, at: [u64; 2], extents: [usize; 4], room: Option<usize>) -> Result<()> {
        let [n, channels, h, w] = extents;
        let places = h * w;
        match turning(extents, room) {
            Some(8) if channels < 8 && self.element == Element::Bf16 => {
                let groups = [places.div_ceil(THREADS), 1, n];
                launch(stream, self.function("narrow_eight")?, at, &[channels, places], groups)
            }
            Some(room) => turn(stream, self.function("together")?, at, extents, room),
            None => self.keep(stream, "narrow", at, extents),
        }
    }

    /// The other way.
    pub fn copy_back(&self, stream: &Stream, at: [u64; 2], extents: [usize; 4], room: Option<usize>) -> Result<()> {
        match turning(extents, room) {
            Some(room) => turn(stream, self.function("apart")?, at, extents, room),
            None => self.keep(stream, "widen", at, extents),
        }
    }

    /// In the order that they have.
    fn keep(&self, stream: &Stream, rounding: &'static str, at: [u64; 2], extents: [usize; 4]) -> Result<()> {
        let count = extents.iter().product::<usize>();
        match self.element {
            Element::Bf16 => {
                launch(stream, self.function(rounding)?, at, &[count], [count.div_ceil(EACH * THREADS), 1, 1])
            }
            Element::F32 => stream.copy(at[1], at[0], 4 * count),
        }
    }

    fn function(&self, name: &'static str) -> Result<&Function> {
        self.functions.get(name).ok_or_else(|| Error::device(format!("no kernel {name} copies {:?}", self.element)))
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

fn launch(stream: &Stream, function: &Function, mut at: [u64; 2], numbers: &[usize], groups: [usize; 3]) -> Result<()> {
    let number = |&n: &usize| u32::try_from(n).map_err(|_| Error::device("a tensor of more than 2^32 elements"));
    let mut numbers: Vec<u32> = numbers.iter().map(number).collect::<Result<_>>()?;
    let mut arguments: Vec<*mut c_void> = at.iter_mut().map(|address| std::ptr::from_mut(address).cast()).collect();
    arguments.extend(numbers.iter_mut().map(|number| std::ptr::from_mut(number).cast::<c_void>()));
    stream.launch(function, groups.map(|n| n as u32), &mut arguments)
}
