// CUDA as a C++ compiler for the processor knows it, so that a kernel becomes a library that the processor runs, a block at a time: each
// thread of a block that has barriers is a fiber. In front of a translated kernel's text; EXPORT(name) comes behind it.
#define HOST 1
#include <ucontext.h>

#include <csetjmp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
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

// What the driver's stand-in needs to know of a kernel.
struct HostKernel {
    int parameters;
    const unsigned* sizes;  // bytes of each
    const bool* pointers;   // whether each is an address
    void (*run)(dim3 grid, dim3 block, void** parameters);
};

extern char __start_shared_memory[] __attribute__((weak));
extern char __stop_shared_memory[] __attribute__((weak));

namespace host {
constexpr size_t STACK = 64 * 1024;
constexpr unsigned MOST_THREADS = 1024;

struct Fiber {
    jmp_buf at;
    char* stack;
    dim3 thread;
    bool done;
};
static Fiber fibers[MOST_THREADS];
static unsigned current;
static jmp_buf scheduler;
static void (*body)(void**);
static void** arguments;
static bool barriers;

static inline void yield() {
    if (_setjmp(fibers[current].at) == 0) _longjmp(scheduler, 1);
}

static void fiber() {
    for (;;) {
        body(arguments);
        fibers[current].done = true;
        yield();
    }
}

static void begin(unsigned i) {
    static ucontext_t made, here;
    Fiber& f = fibers[i];
    f.stack = static_cast<char*>(malloc(STACK));
    getcontext(&made);
    made.uc_stack.ss_sp = f.stack;
    made.uc_stack.ss_size = STACK;
    made.uc_link = nullptr;
    makecontext(&made, fiber, 0);
    if (_setjmp(scheduler) == 0) swapcontext(&here, &made);
}

// Runs every thread of a block up to its next barrier, or its end, in turns: forwards, then backwards, so that what depends on an order
// that nothing promises comes out otherwise. All threads come to each barrier.
static void block(unsigned threads) {
    for (unsigned i = 0; i < threads; i++) fibers[i].done = false;
    for (unsigned round = 0;; round++) {
        unsigned done = 0;
        for (unsigned n = 0; n < threads; n++) {
            unsigned i = round % 2 ? threads - 1 - n : n;
            current = i;
            threadIdx = fibers[i].thread;
            if (!fibers[i].stack) {
                begin(i);
            } else if (_setjmp(scheduler) == 0) {
                _longjmp(fibers[i].at, 1);
            }
            done += fibers[i].done;
        }
        if (done == threads) return;
        if (done != 0) {
            fprintf(stderr, "%u of %u threads come to a barrier\n", threads - done, threads);
            abort();
        }
    }
}

static void run(void (*kernel)(void**), dim3 grid, dim3 size, void** parameters) {
    unsigned threads = size.x * size.y * size.z;
    if (threads > MOST_THREADS) abort();
    gridDim = grid, blockDim = size, body = kernel, arguments = parameters;
    for (unsigned i = 0; i < threads; i++) {
        fibers[i].thread = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    }
    for (unsigned z = 0; z < grid.z; z++) {
        for (unsigned y = 0; y < grid.y; y++) {
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                // A block finds no numbers in its shared memory.
                if (__start_shared_memory) memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
                if (barriers) {
                    block(threads);
                    continue;
                }
                for (unsigned i = 0; i < threads; i++) {
                    threadIdx = fibers[i].thread;
                    kernel(parameters);
                }
            }
        }
    }
    for (unsigned i = 0; i < threads; i++) {
        free(fibers[i].stack);
        fibers[i].stack = nullptr;
    }
}

template <auto kernel> struct Export;
template <class... P, void (*kernel)(P...)> struct Export<kernel> {
    template <size_t... I> static void call(void** p, std::integer_sequence<size_t, I...>) {
        kernel(*static_cast<std::remove_reference_t<P>*>(p[I])...);
    }
    static void called(void** p) { call(p, std::make_integer_sequence<size_t, sizeof...(P)>()); }
    static void run(dim3 grid, dim3 block, void** p) { host::run(called, grid, block, p); }
    static constexpr unsigned sizes[] = {sizeof(P)..., 0};
    static constexpr bool pointers[] = {std::is_pointer_v<P>..., false};
};
}  // namespace host

#define EXPORT(name, with_barriers)                                                                              \
    extern "C" const HostKernel* host_kernel_##name() {                                                         \
        using E = host::Export<&name>;                                                                           \
        static const HostKernel kernel{int(sizeof(E::pointers)) - 1, E::sizes, E::pointers, E::run};             \
        host::barriers = with_barriers;                                                                          \
        return &kernel;                                                                                          \
    }

static inline void __syncthreads() { host::yield(); }
