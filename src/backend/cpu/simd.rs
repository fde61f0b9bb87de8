//! Loops for the vector units that this processor has.

/// Defines a function whose loops the compiler vectorises twice: for the target's baseline (SSE2 on x86-64) and for
/// AVX2 with FMA; the call takes the second where the processor has it. Closures passed in are inlined into both. In the
/// body, the constant `FMA` says which it is (see [`fused`]).
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

/// a * b + c, in one instruction and rounding where there is one (without, `mul_add` would be a slow function call).
#[inline(always)]
pub(super) fn fused<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
