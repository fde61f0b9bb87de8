//! Loops for the vector units that this processor has.

/// Defines a function whose loops the compiler vectorises twice: for the target's baseline (SSE2 on x86-64) and for
/// AVX2 with FMA; the call takes the second where the processor has it. Closures passed in are inlined into both. In the
/// body, the constant `FMA` says which it is (see [`fused_lanes`]).
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$($generic:ident : $bound:path),+>)?
        ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name $(<$($generic: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn plain<$($($generic: $bound,)+)? const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide $(<$($generic: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    plain::<$($($generic,)+)? true>($($arg),*)
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has what `wide` is compiled for; it was just asked.
                    return unsafe { wide($($arg),*) };
                }
            }
            plain::<$($($generic,)+)? false>($($arg),*)
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
pub(super) fn fused_lanes<const FMA: bool>(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
    #[cfg(target_arch = "x86_64")]
    if FMA {
        use bytemuck::cast;
        // SAFETY: FMA is true only in the functions that [`vectorised`] compiles for, and calls on, processors with AVX2 and FMA.
        return cast(unsafe { std::arch::x86_64::_mm256_fmadd_ps(cast(a), cast(b), cast(c)) });
    }
    lanes(0.0, |i| a[i] * b[i] + c[i])
}
