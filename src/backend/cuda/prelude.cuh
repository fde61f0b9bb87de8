// What kernels that were translated from WGSL are written with: vectors, arrays, and WGSL's functions. In front of every kernel, see
// translate.rs. `HOST` is defined where a C++ compiler builds the kernels for the processor, to test them: see host.h.

#ifndef HOST
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
#endif

template <int N, class T> struct vec;
template <class T> struct alignas(2 * sizeof(T)) vec<2, T> { T x, y; };
template <class T> struct vec<3, T> { T x, y, z; };
template <class T> struct alignas(4 * sizeof(T)) vec<4, T> { T x, y, z, w; };

// An array of a fixed size, which can be copied.
template <class T, int N> struct array {
    T items[N];
    __device__ T& operator[](unsigned i) { return items[i]; }
    __device__ const T& operator[](unsigned i) const { return items[i]; }
};

// Component i.
template <int N, class T> __device__ inline T& at(vec<N, T>& v, unsigned i) { return (&v.x)[i]; }
template <int N, class T> __device__ inline const T& at(const vec<N, T>& v, unsigned i) { return (&v.x)[i]; }

// f of each component.
template <class F, class T> __device__ inline auto map(const vec<2, T>& a, F f) -> vec<2, decltype(f(a.x))> {
    return {f(a.x), f(a.y)};
}
template <class F, class T> __device__ inline auto map(const vec<3, T>& a, F f) -> vec<3, decltype(f(a.x))> {
    return {f(a.x), f(a.y), f(a.z)};
}
template <class F, class T> __device__ inline auto map(const vec<4, T>& a, F f) -> vec<4, decltype(f(a.x))> {
    return {f(a.x), f(a.y), f(a.z), f(a.w)};
}

// f of both components.
template <class F, class T, class U>
__device__ inline auto zip(const vec<2, T>& a, const vec<2, U>& b, F f) -> vec<2, decltype(f(a.x, b.x))> {
    return {f(a.x, b.x), f(a.y, b.y)};
}
template <class F, class T, class U>
__device__ inline auto zip(const vec<3, T>& a, const vec<3, U>& b, F f) -> vec<3, decltype(f(a.x, b.x))> {
    return {f(a.x, b.x), f(a.y, b.y), f(a.z, b.z)};
}
template <class F, class T, class U>
__device__ inline auto zip(const vec<4, T>& a, const vec<4, U>& b, F f) -> vec<4, decltype(f(a.x, b.x))> {
    return {f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w)};
}

// All components this value.
template <int N, class T> struct splatted;
template <class T> struct splatted<2, T> { static __device__ inline vec<2, T> of(T v) { return {v, v}; } };
template <class T> struct splatted<3, T> { static __device__ inline vec<3, T> of(T v) { return {v, v, v}; } };
template <class T> struct splatted<4, T> { static __device__ inline vec<4, T> of(T v) { return {v, v, v, v}; } };
template <int N, class T> __device__ inline vec<N, T> splat(T v) { return splatted<N, T>::of(v); }

// A vector of components and smaller vectors.
template <class T> struct joined {
    T* to;
    __device__ inline void add(T v) { *to++ = v; }
    template <int N> __device__ inline void add(const vec<N, T>& v) {
        for (int i = 0; i < N; i++) *to++ = at(v, i);
    }
};
template <int N, class T, class... Parts> __device__ inline vec<N, T> join(const Parts&... parts) {
    vec<N, T> v;
    joined<T> all{&v.x};
    int order[] = {(all.add(parts), 0)...};
    (void)order;
    return v;
}

// Zero of a value's type.
template <class T> __device__ inline T splat_like(const T&) { return T{}; }

#define CONVOY_OPERATOR(op)                                                                                              \
    template <int N, class T> __device__ inline auto operator op(const vec<N, T>& a, const vec<N, T>& b) {              \
        return zip(a, b, [](T x, T y) { return static_cast<decltype(x op y)>(x op y); });                                \
    }                                                                                                                    \
    template <int N, class T> __device__ inline auto operator op(const vec<N, T>& a, T b) {                             \
        return map(a, [b](T x) { return x op b; });                                                                      \
    }                                                                                                                    \
    template <int N, class T> __device__ inline auto operator op(T a, const vec<N, T>& b) {                             \
        return map(b, [a](T x) { return a op x; });                                                                      \
    }
CONVOY_OPERATOR(+)
CONVOY_OPERATOR(-)
CONVOY_OPERATOR(*)
CONVOY_OPERATOR(/)
CONVOY_OPERATOR(%)
CONVOY_OPERATOR(==)
CONVOY_OPERATOR(!=)
CONVOY_OPERATOR(<)
CONVOY_OPERATOR(<=)
CONVOY_OPERATOR(>)
CONVOY_OPERATOR(>=)
CONVOY_OPERATOR(^)
#undef CONVOY_OPERATOR
// Truths are no whole numbers: & and | keep their type.
template <int N> __device__ inline vec<N, unsigned> operator&(const vec<N, unsigned>& a, const vec<N, unsigned>& b) {
    return zip(a, b, [](unsigned x, unsigned y) { return x & y; });
}
template <int N> __device__ inline vec<N, unsigned> operator|(const vec<N, unsigned>& a, const vec<N, unsigned>& b) {
    return zip(a, b, [](unsigned x, unsigned y) { return x | y; });
}
template <int N> __device__ inline vec<N, bool> operator&(const vec<N, bool>& a, const vec<N, bool>& b) {
    return zip(a, b, [](bool x, bool y) { return x && y; });
}
template <int N> __device__ inline vec<N, bool> operator|(const vec<N, bool>& a, const vec<N, bool>& b) {
    return zip(a, b, [](bool x, bool y) { return x || y; });
}
template <int N, class T> __device__ inline vec<N, T> operator<<(const vec<N, T>& a, const vec<N, unsigned>& b) {
    return zip(a, b, [](T x, unsigned y) { return x << y; });
}
template <int N, class T> __device__ inline vec<N, T> operator>>(const vec<N, T>& a, const vec<N, unsigned>& b) {
    return zip(a, b, [](T x, unsigned y) { return x >> y; });
}
template <int N, class T> __device__ inline vec<N, T> operator-(const vec<N, T>& a) {
    return map(a, [](T x) { return -x; });
}
template <int N> __device__ inline vec<N, bool> operator!(const vec<N, bool>& a) {
    return map(a, [](bool x) { return !x; });
}
template <int N, class T> __device__ inline vec<N, T> operator~(const vec<N, T>& a) {
    return map(a, [](T x) { return ~x; });
}

__device__ inline int wrapping_add(int a, int b) { return int(unsigned(a) + unsigned(b)); }
__device__ inline int wrapping_sub(int a, int b) { return int(unsigned(a) - unsigned(b)); }
__device__ inline int wrapping_mul(int a, int b) { return int(unsigned(a) * unsigned(b)); }
template <int N> __device__ inline vec<N, int> wrapping_add(const vec<N, int>& a, const vec<N, int>& b) {
    return zip(a, b, [](int x, int y) { return wrapping_add(x, y); });
}
template <int N> __device__ inline vec<N, int> wrapping_sub(const vec<N, int>& a, const vec<N, int>& b) {
    return zip(a, b, [](int x, int y) { return wrapping_sub(x, y); });
}
template <int N> __device__ inline vec<N, int> wrapping_mul(const vec<N, int>& a, const vec<N, int>& b) {
    return zip(a, b, [](int x, int y) { return wrapping_mul(x, y); });
}
template <int N> __device__ inline vec<N, int> wrapping_mul(const vec<N, int>& a, int b) {
    return map(a, [b](int x) { return wrapping_mul(x, b); });
}

template <int N> __device__ inline bool all(const vec<N, bool>& v) {
    bool all = true;
    for (int i = 0; i < N; i++) all = all && at(v, i);
    return all;
}
template <int N> __device__ inline bool any(const vec<N, bool>& v) { return !all(!v); }
__device__ inline bool all(bool v) { return v; }
__device__ inline bool any(bool v) { return v; }

template <class T> __device__ inline vec<2, T> select(const vec<2, bool>& c, const vec<2, T>& a, const vec<2, T>& b) {
    return {c.x ? a.x : b.x, c.y ? a.y : b.y};
}
template <class T> __device__ inline vec<3, T> select(const vec<3, bool>& c, const vec<3, T>& a, const vec<3, T>& b) {
    return {c.x ? a.x : b.x, c.y ? a.y : b.y, c.z ? a.z : b.z};
}
template <class T> __device__ inline vec<4, T> select(const vec<4, bool>& c, const vec<4, T>& a, const vec<4, T>& b) {
    return {c.x ? a.x : b.x, c.y ? a.y : b.y, c.z ? a.z : b.z, c.w ? a.w : b.w};
}

// Functions of numbers, and of the components of vectors.
#define CONVOY_FUNCTION1(name, T, body)                                                                                  \
    __device__ inline T name(T a) { return body; }                                                                       \
    template <int N> __device__ inline vec<N, T> name(const vec<N, T>& a) { return map(a, [](T x) { return name(x); }); }
#define CONVOY_FUNCTION2(name, T, body)                                                                                  \
    __device__ inline T name(T a, T b) { return body; }                                                                  \
    template <int N> __device__ inline vec<N, T> name(const vec<N, T>& a, const vec<N, T>& b) {                         \
        return zip(a, b, [](T x, T y) { return name(x, y); });                                                           \
    }
CONVOY_FUNCTION1(abs_of, float, fabsf(a))
CONVOY_FUNCTION1(abs_of, int, a < 0 ? wrapping_sub(0, a) : a)
CONVOY_FUNCTION1(floor_of, float, floorf(a))
CONVOY_FUNCTION1(ceil_of, float, ceilf(a))
CONVOY_FUNCTION1(exp_of, float, expf(a))
CONVOY_FUNCTION1(exp2_of, float, exp2f(a))
CONVOY_FUNCTION1(log_of, float, logf(a))
CONVOY_FUNCTION1(log2_of, float, log2f(a))
CONVOY_FUNCTION1(sqrt_of, float, sqrtf(a))
CONVOY_FUNCTION1(inverse_sqrt_of, float, 1.0f / sqrtf(a))
CONVOY_FUNCTION1(tanh_of, float, tanhf(a))
CONVOY_FUNCTION1(sign_of, float, a > 0.0f ? 1.0f : a < 0.0f ? -1.0f : 0.0f)
CONVOY_FUNCTION2(min_of, float, fminf(a, b))
CONVOY_FUNCTION2(max_of, float, fmaxf(a, b))
CONVOY_FUNCTION2(min_of, int, a < b ? a : b)
CONVOY_FUNCTION2(max_of, int, a < b ? b : a)
CONVOY_FUNCTION2(min_of, unsigned, a < b ? a : b)
CONVOY_FUNCTION2(max_of, unsigned, a < b ? b : a)
CONVOY_FUNCTION2(pow_of, float, powf(a, b))
CONVOY_FUNCTION2(fmod, float, fmodf(a, b))
#undef CONVOY_FUNCTION1
#undef CONVOY_FUNCTION2
template <class T> __device__ inline T clamp_of(T v, T low, T high) { return min_of(max_of(v, low), high); }
__device__ inline float fma_of(float a, float b, float c) { return fmaf(a, b, c); }
template <int N>
__device__ inline vec<N, float> fma_of(const vec<N, float>& a, const vec<N, float>& b, const vec<N, float>& c) {
    vec<N, float> sum;
    for (int i = 0; i < N; i++) at(sum, i) = fmaf(at(a, i), at(b, i), at(c, i));
    return sum;
}
__device__ inline float mix_of(float a, float b, float part) { return a * (1.0f - part) + b * part; }
template <int N> __device__ inline vec<N, float> mix_of(const vec<N, float>& a, const vec<N, float>& b, float part) {
    return a * (1.0f - part) + b * part;
}
template <int N, class T> __device__ inline T dot(const vec<N, T>& a, const vec<N, T>& b) {
    T sum = a.x * b.x;
    for (int i = 1; i < N; i++) sum += at(a, i) * at(b, i);
    return sum;
}
// sum + dot(a, b); the compiler makes multiply-adds of it.
template <int N> __device__ inline float dot_add(float sum, const vec<N, float>& a, const vec<N, float>& b) {
    for (int i = 0; i < N; i++) sum += at(a, i) * at(b, i);
    return sum;
}

// A 16-bit float, which is only kept: sums are of floats.
struct half {
    unsigned short bits;
};

// Another type's nearest value: what a whole number cannot hold becomes the nearest that it can.
template <class T, class U> struct converted {
    static __device__ inline T of(U v) { return static_cast<T>(v); }
};
#ifdef HOST
template <class T> struct converted<T, float> {
    static T of(float v) {
        if (T(0.5) != T(0)) return T(v);
        if (!(v > float(lowest<T>()))) return v != v ? T(0) : lowest<T>();
        return v >= float(highest<T>()) ? highest<T>() : T(v);
    }
};
template <> struct converted<float, float> { static float of(float v) { return v; } };
template <> struct converted<bool, float> { static bool of(float v) { return v != 0.0f; } };
template <> struct converted<half, float> { static half of(float v) { return {half_bits(v)}; } };
template <> struct converted<float, half> { static float of(half v) { return half_value(v.bits); } };
#else
template <> struct converted<half, float> {
    static __device__ inline half of(float v) {
        half h;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(v));
        return h;
    }
};
template <> struct converted<float, half> {
    static __device__ inline float of(half v) {
        float f;
        asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
        return f;
    }
};
template <> struct converted<int, float> { static __device__ inline int of(float v) { return __float2int_rz(v); } };
template <> struct converted<unsigned, float> {
    static __device__ inline unsigned of(float v) { return __float2uint_rz(v); }
};
#endif
template <class T, class U> __device__ inline T convert(U v) { return converted<T, U>::of(v); }
template <class T, int N, class U> __device__ inline vec<N, T> convert(const vec<N, U>& v) {
    return map(v, [](U x) { return converted<T, U>::of(x); });
}

// The same bits.
template <class T, class U> struct recast;
#ifdef HOST
template <class T, class U> struct recast {
    static T of(U v) {
        T t;
        memcpy(&t, &v, sizeof t);
        return t;
    }
};
#else
template <class T> struct recast<T, T> { static __device__ inline T of(T v) { return v; } };
template <> struct recast<float, unsigned> { static __device__ inline float of(unsigned v) { return __uint_as_float(v); } };
template <> struct recast<unsigned, float> { static __device__ inline unsigned of(float v) { return __float_as_uint(v); } };
template <> struct recast<float, int> { static __device__ inline float of(int v) { return __int_as_float(v); } };
template <> struct recast<int, float> { static __device__ inline int of(float v) { return __float_as_int(v); } };
template <> struct recast<int, unsigned> { static __device__ inline int of(unsigned v) { return int(v); } };
template <> struct recast<unsigned, int> { static __device__ inline unsigned of(int v) { return unsigned(v); } };
#endif
template <class T, class U> __device__ inline T bitcast(U v) { return recast<T, U>::of(v); }
template <class T, int N, class U> __device__ inline vec<N, T> bitcast(const vec<N, U>& v) {
    return map(v, [](U x) { return recast<T, U>::of(x); });
}

// Number of a thread in its block.
__device__ inline unsigned thread_index() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}
__device__ inline vec<3, unsigned> global_index() {
    return {blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y,
            blockIdx.z * blockDim.z + threadIdx.z};
}
