//! Loops for the vector units that this processor has.

/// f32 elements of a vector.
pub(super) const LANES: usize = 8;

/// What the loops work on.
pub(super) type Vector = [f32; LANES];

/// Defines a function whose loops the compiler vectorises twice: for the target's baseline (SSE2 on x86-64) and for
/// AVX2 with FMA; the call takes the second where the processor has it. Closures passed in are inlined into both. In the
/// body, the constant `FMA` says which it is (see [`fused_lanes`]). `fn f[N]<T: Bound>` has the constant `N: usize`.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($extent:ident),+])? $(<$($generic:ident : $bound:path),+>)?
        ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name <$($(const $extent: usize,)+)? $($($generic: $bound),+)?> ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn plain<$($(const $extent: usize,)+)? $($($generic: $bound,)+)? const FMA: bool>
                ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide <$($(const $extent: usize,)+)? $($($generic: $bound),+)?> ($($arg: $ty),*) $(-> $ret)? {
                    plain::<$($($extent,)+)? $($($generic,)+)? true>($($arg),*)
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has what `wide` is compiled for; it was just asked.
                    return unsafe { wide::<$($($extent,)+)? $($($generic,)+)?>($($arg),*) };
                }
            }
            plain::<$($($extent,)+)? $($($generic,)+)? false>($($arg),*)
        }
    };
}

pub(super) use vectorised;

/// An array from the numbers of its elements; `zero` is any value of their type. (`std::array::from_fn` and `Default::default` are
/// calls where they land in another codegen unit.)
#[inline(always)]
pub(super) fn lanes<T: Copy, const N: usize>(zero: T, f: impl Fn(usize) -> T) -> [T; N] {
    let mut lanes = [zero; N];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = f(i);
    }
    lanes
}

/// Where vectors of `N` begin that cover `len` elements, at least `N`; the last may begin among the elements of the one before, which
/// are then worked on twice.
#[inline(always)]
pub(super) fn starts<const N: usize>(len: usize) -> impl Iterator<Item = usize> {
    (0..len.div_ceil(N)).map(move |k| (k * N).min(len - N))
}

/// f(&mut y[i], &x[i]) for every i that both have. (`Iterator::zip` too begins with a call where it lands in another codegen
/// unit, and that counts where rows are short.)
#[inline(always)]
pub(super) fn each<Y, X>(y: &mut [Y], x: &[X], f: impl Fn(&mut Y, &X)) {
    let both = y.len().min(x.len());
    let (y, x) = (&mut y[..both], &x[..both]);
    for i in 0..both {
        f(&mut y[i], &x[i]);
    }
}

/// a * b + c on eight lanes, in one instruction and rounding where there is one. (Without it `mul_add` would be a slow function
/// call; and left to itself the compiler turns blocks of such sums on their side.)
#[inline(always)]
pub(super) fn fused_lanes<const FMA: bool>(a: Vector, b: Vector, c: Vector) -> Vector {
    #[cfg(target_arch = "x86_64")]
    if FMA {
        use bytemuck::cast;
        // SAFETY: FMA is true only in the functions that [`vectorised`] compiles for, and calls on, processors with AVX2 and FMA.
        return cast(unsafe { std::arch::x86_64::_mm256_fmadd_ps(cast(a), cast(b), cast(c)) });
    }
    lanes(0.0, |i| a[i] * b[i] + c[i])
}

/// 1 / sqrt(x) to three roundings, where the processor has an estimate to begin with, `N` is a number of whole vectors, and all are far
/// from the ends of f32's range: a third of the time of a root and a division.
#[inline(always)]
pub(super) fn inverse_roots<const N: usize, const FMA: bool>(x: [f32; N]) -> Option<[f32; N]> {
    #[cfg(target_arch = "x86_64")]
    if FMA && N.is_multiple_of(LANES) {
        use bytemuck::cast;
        let (mut guess, mut tame) = (x, true);
        for x in &x {
            tame &= (*x >= 1e-30) & (*x <= 1e30);
        }
        for guess in guess.as_chunks_mut::<LANES>().0 {
            // SAFETY: as in [`fused_lanes`]; AVX2 includes AVX.
            *guess = cast(unsafe { std::arch::x86_64::_mm256_rsqrt_ps(cast(*guess)) });
        }
        // A step of Newton's on 1 / y^2 - x.
        return tame.then(|| lanes(0.0, |i| guess[i] * (1.5 - 0.5 * x[i] * guess[i] * guess[i])));
    }
    let _ = x; // where there is none
    None
}

/// The vector that a slice begins with.
#[inline(always)]
pub(super) fn load<const N: usize>(from: &[f32]) -> [f32; N] {
    match from.first_chunk() {
        Some(vector) => *vector,
        None => too_short(from.len()),
    }
}

/// Writes the vector that a slice begins with.
#[inline(always)]
pub(super) fn store<const N: usize>(to: &mut [f32], vector: [f32; N]) {
    let len = to.len();
    match to.first_chunk_mut() {
        Some(to) => *to = vector,
        None => too_short(len),
    }
}

#[cold]
fn too_short(len: usize) -> ! {
    panic!("{len} elements, less than a vector")
}

/// Elements 0, 2, 4, 6 of `first` and 1, 3, 5, 7 of `last`: every other one of the 15 of which `last` has those from the eighth on.
#[inline(always)]
pub(super) fn evens<const FMA: bool>(first: Vector, last: Vector) -> Vector {
    #[cfg(target_arch = "x86_64")]
    if FMA {
        use std::arch::x86_64::*;

        use bytemuck::cast;
        // SAFETY: as in [`fused_lanes`].
        return unsafe {
            let pairs: __m256i = cast(_mm256_shuffle_ps::<0b11_01_10_00>(cast(first), cast(last)));
            cast(_mm256_permute4x64_epi64::<0b11_01_10_00>(pairs))
        };
    }
    lanes(0.0, |i| if i < LANES / 2 { first[2 * i] } else { last[2 * i - LANES + 1] })
}

/// The transpose of eight vectors: element j of vector i becomes element i of vector j.
#[inline(always)]
pub(super) fn transpose_lanes<const FMA: bool>(rows: [Vector; LANES]) -> [Vector; LANES] {
    #[cfg(target_arch = "x86_64")]
    if FMA {
        use std::arch::x86_64::*;

        use bytemuck::cast;
        // Closures would not have the processor's features, so that each intrinsic would be a call: macros.
        // SAFETY: as in [`fused_lanes`].
        unsafe {
            macro_rules! pairs {
                ($i:expr) => {{
                    let (a, b): (__m256, __m256) = (cast(rows[$i]), cast(rows[$i + 1]));
                    (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b))
                }};
            }
            // Of four rows: columns 0 and 4, 1 and 5, ...
            macro_rules! fours {
                ($i:expr) => {{
                    let ((a, b), (c, d)) = (pairs!($i), pairs!($i + 2));
                    let (low, high) =
                        (_mm256_shuffle_ps::<0b01_00_01_00>(a, c), _mm256_shuffle_ps::<0b11_10_11_10>(a, c));
                    [low, high, _mm256_shuffle_ps::<0b01_00_01_00>(b, d), _mm256_shuffle_ps::<0b11_10_11_10>(b, d)]
                }};
            }
            let ([a, b, c, d], [e, f, g, h]) = (fours!(0), fours!(4));
            macro_rules! halves {
                ($half:literal) => {
                    [
                        _mm256_permute2f128_ps::<$half>(a, e),
                        _mm256_permute2f128_ps::<$half>(b, f),
                        _mm256_permute2f128_ps::<$half>(c, g),
                        _mm256_permute2f128_ps::<$half>(d, h),
                    ]
                };
            }
            let ([a, b, c, d], [e, f, g, h]) = (halves!(0x20), halves!(0x31));
            return [cast(a), cast(b), cast(c), cast(d), cast(e), cast(f), cast(g), cast(h)];
        }
    }
    lanes([0.0; LANES], |j| lanes(0.0, |i| rows[i][j]))
}
