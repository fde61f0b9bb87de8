// CUDA as a C++ compiler for the processor knows it, so that a kernel becomes a library that driver.cpp runs on the processor. In front
// of a translated kernel's text; EXPORT(name) comes behind it.
#define HOST 1
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#define __device__
// All of a kernel's shared memory lies together, so that it can be filled.
#define __shared__ static __attribute__((section("shared_memory")))
#define KERNEL(threads) static void

struct dim3 {
    unsigned x, y, z;
};
static dim3 gridDim, blockDim, blockIdx, threadIdx;

template <class T> static T lowest() { return std::numeric_limits<T>::lowest(); }
template <class T> static T highest() { return std::numeric_limits<T>::max(); }

// The nearest 16-bit float, ties to even.
static inline unsigned short half_bits(float v) {
    unsigned bits;
    memcpy(&bits, &v, 4);
    unsigned sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return sign | 0x7e00;
    if (size >= 0x477ff000) return sign | 0x7c00;
    if (size < 0x38800000) {
        // Steps of 2^-24: adding 0.5 leaves them in the last bits.
        float moved;
        memcpy(&moved, &size, 4);
        moved += 0.5f;
        memcpy(&size, &moved, 4);
        return sign | (size - 0x3f000000);
    }
    return sign | ((size + 0xfff + (size >> 13 & 1) - 0x38000000) >> 13);
}
static inline float half_value(unsigned short h) {
    unsigned exponent = h >> 10 & 31, rest = h & 1023;
    float size = exponent == 31 ? (rest ? NAN : INFINITY)
        : exponent              ? ldexpf(1024 + rest, int(exponent) - 25)
                                : ldexpf(rest, -24);
    return h & 0x8000 ? -size : size;
}

// What driver.cpp needs to know of a kernel.
struct HostKernel {
    int parameters;
    const unsigned* sizes;  // bytes of each
    const bool* pointers;   // whether each is an address
    void (*thread)(void** parameters);
    bool barriers;
    dim3 *grid, *block, *block_index, *thread_index;
    void (**barrier)();
    char *shared, *shared_end;
};

extern char __start_shared_memory[] __attribute__((weak));
extern char __stop_shared_memory[] __attribute__((weak));

static void (*barrier)();
static inline void __syncthreads() { barrier(); }

template <auto kernel> struct Export;
template <class... P, void (*kernel)(P...)> struct Export<kernel> {
    template <size_t... I> static void call(void** p, std::integer_sequence<size_t, I...>) {
        kernel(*static_cast<std::remove_reference_t<P>*>(p[I])...);
    }
    static void thread(void** p) { call(p, std::make_integer_sequence<size_t, sizeof...(P)>()); }
    static constexpr unsigned sizes[] = {sizeof(P)..., 0};
    static constexpr bool pointers[] = {std::is_pointer_v<P>..., false};
};

#define EXPORT(name, barriers)                                                                                   \
    extern "C" const HostKernel* host_kernel_##name() {                                                         \
        using E = Export<&name>;                                                                                 \
        static const HostKernel kernel{int(sizeof(E::pointers)) - 1, E::sizes, E::pointers, E::thread, barriers, \
            &gridDim, &blockDim, &blockIdx, &threadIdx, &barrier, __start_shared_memory, __stop_shared_memory};  \
        return &kernel;                                                                                          \
    }
