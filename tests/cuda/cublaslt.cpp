// A stand-in for cuBLASLt: the part of its interface that convoy uses, for f32 in column-major order, on the processor. It refuses shapes that
// do not agree, addresses that are not the device's, and an algorithm of another product.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

extern "C" int stand_in_call(void* stream, const char* name, int (*work)(void*), void (*drop)(void*), void* data);
extern "C" int stand_in_inside(uintptr_t at, size_t bytes);

enum { OK = 0, NOT_INITIALIZED = 1, INVALID = 7, NOT_SUPPORTED = 15 };
enum { TRANSA = 3, TRANSB = 4, EPILOGUE = 7, BIAS_POINTER = 8, MAX_WORKSPACE = 1 };
constexpr int WAYS = 2;

struct Descriptor {
    int compute, transposed_a = 0, transposed_b = 0, epilogue = 1;
    const float* bias = nullptr;
};
struct Layout {
    uint64_t rows, columns;
    int64_t stride;
};
struct Algorithm {
    uint64_t data[8];
};
struct Found {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
struct Product {
    Descriptor how;
    Layout a, b, d;
    const float *at_a, *at_b;
    float *at_d, *workspace;
    size_t workspace_bytes;
    bool backwards;
};

#define API extern "C" __attribute__((visibility("default"))) int

static int refuse(const char* why) {
    fprintf(stderr, "cuBLASLt's stand-in: %s\n", why);
    return INVALID;
}

extern "C" __attribute__((visibility("default"))) size_t cublasLtGetVersion() { return 130100; }
API cublasLtCreate(void** handle) { return *handle = new int(1), OK; }
API cublasLtDestroy(int* handle) { return delete handle, OK; }
API cublasLtMatmulDescCreate(Descriptor** made, int compute, int scale) {
    if (scale != 0 || (compute != 68 && compute != 75 && compute != 77)) return refuse("a type of computation");
    return *made = new Descriptor{compute}, OK;
}
API cublasLtMatmulDescDestroy(Descriptor* it) { return delete it, OK; }
API cublasLtMatmulDescSetAttribute(Descriptor* it, int attribute, const void* value, size_t bytes) {
    if (attribute == BIAS_POINTER) return bytes == 8 ? (memcpy(&it->bias, value, 8), OK) : refuse("an address of other than 8 bytes");
    int* to = attribute == TRANSA ? &it->transposed_a : attribute == TRANSB ? &it->transposed_b : attribute == EPILOGUE ? &it->epilogue : nullptr;
    if (!to || bytes != 4) return refuse("an attribute of a product");
    return memcpy(to, value, 4), OK;
}
API cublasLtMatrixLayoutCreate(Layout** made, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    if (type != 0 || stride < int64_t(rows)) return refuse("a layout");
    return *made = new Layout{rows, columns, stride}, OK;
}
API cublasLtMatrixLayoutDestroy(Layout* it) { return delete it, OK; }
API cublasLtMatmulPreferenceCreate(uint64_t** made) { return *made = new uint64_t(0), OK; }
API cublasLtMatmulPreferenceDestroy(uint64_t* it) { return delete it, OK; }
API cublasLtMatmulPreferenceSetAttribute(uint64_t* it, int attribute, const void* value, size_t bytes) {
    if (attribute != MAX_WORKSPACE || bytes != 8) return refuse("an attribute of a preference");
    return memcpy(it, value, 8), OK;
}

static bool agree(const Descriptor& how, const Layout& a, const Layout& b, const Layout& d) {
    uint64_t m = how.transposed_a ? a.columns : a.rows, k = how.transposed_a ? a.rows : a.columns;
    uint64_t k_of_b = how.transposed_b ? b.columns : b.rows, n = how.transposed_b ? b.rows : b.columns;
    return m == d.rows && n == d.columns && k == k_of_b;
}
// Of no other product.
static uint64_t mark(const Descriptor& how, const Layout& d, int way) {
    return (d.rows * 1000003 + d.columns) * 64 + how.epilogue * 8 + how.transposed_a * 4 + how.transposed_b * 2 + way;
}

API cublasLtMatmulAlgoGetHeuristic(int*, Descriptor* how, Layout* a, Layout* b, Layout* c, Layout* d, uint64_t* most, int wanted,
    Found* found, int* count) {
    *count = 0;
    if (c != d || !agree(*how, *a, *b, *d)) return refuse("matrices that do not agree");
    for (int way = 0; way < WAYS && way < wanted; way++) {
        found[way] = {{{mark(*how, *d, way)}}, size_t(way) * 1024, OK, 1, {}};
        if (found[way].workspace <= *most) *count = way + 1;
    }
    return *count ? OK : NOT_SUPPORTED;
}

// The nearest number with so many bits of fraction.
static float rounded(float x, int compute) {
    int bits = compute == 77 ? 10 : compute == 75 ? 7 : 23;
    uint32_t word;
    memcpy(&word, &x, 4);
    if (bits < 23 && std::isfinite(x)) word = (word + (1u << (22 - bits))) & ~((1u << (23 - bits)) - 1);
    memcpy(&x, &word, 4);
    return x;
}

static int run(void* data) {
    auto& p = *static_cast<Product*>(data);
    std::fill_n(p.workspace, p.workspace_bytes / 4, NAN);
    uint64_t terms = p.how.transposed_a ? p.a.rows : p.a.columns;
    for (uint64_t j = 0; j < p.d.columns; j++) {
        for (uint64_t i = 0; i < p.d.rows; i++) {
            float sum = 0;
            for (uint64_t t = 0; t < terms; t++) {
                uint64_t k = p.backwards ? terms - 1 - t : t;
                float a = p.at_a[p.how.transposed_a ? k + i * p.a.stride : i + k * p.a.stride];
                float b = p.at_b[p.how.transposed_b ? j + k * p.b.stride : k + j * p.b.stride];
                sum += rounded(a, p.how.compute) * rounded(b, p.how.compute);
            }
            if (p.how.epilogue & 4) sum += p.how.bias[i];
            if (p.how.epilogue & 2 && !(sum > 0)) sum = 0;  // no number too
            p.at_d[i + j * p.d.stride] = sum;
        }
    }
    return OK;
}

API cublasLtMatmul(int*, Descriptor* how, const float* alpha, const float* at_a, Layout* a, const float* at_b, Layout* b, const float* beta,
    const float* at_c, Layout* c, float* at_d, Layout* d, const Algorithm* algorithm, float* workspace, size_t bytes, void* stream) {
    if (*alpha != 1 || *beta != 0 || c != d || at_c != at_d) return refuse("factors, or another c than d");
    if (!agree(*how, *a, *b, *d)) return refuse("matrices that do not agree");
    int way = algorithm->data[0] - mark(*how, *d, 0);
    if (way < 0 || way >= WAYS || bytes < size_t(way) * 1024) return refuse("an algorithm of another product");
    auto there = [](const void* at, const Layout& of) {
        auto address = reinterpret_cast<uintptr_t>(at);
        return address % 256 == 0 && stand_in_inside(address, of.stride * of.columns * 4);
    };
    if (!there(at_a, *a) || !there(at_b, *b) || !there(at_d, *d)) return refuse("a matrix that is not the device's");
    if (bytes && !stand_in_inside(reinterpret_cast<uintptr_t>(workspace), bytes)) return refuse("a workspace that is not the device's");
    if (how->epilogue & 4 && !stand_in_inside(reinterpret_cast<uintptr_t>(how->bias), d->rows * 4)) return refuse("a bias that is not the device's");
    auto* product = new Product{*how, *a, *b, *d, at_a, at_b, at_d, workspace, bytes, way == 1};
    return stand_in_call(stream, "cublaslt", run, [](void* data) { delete static_cast<Product*>(data); }, product);
}
