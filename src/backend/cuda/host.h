// CUDA as a C++ compiler for the processor knows it: enough to compile translated kernels, and to run them a block at a time.
#define HOST 1
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#define __device__
#define __shared__ static
#define KERNEL(threads) void
struct dim3 { unsigned x, y, z; };
extern dim3 gridDim, blockDim, blockIdx, threadIdx;
void __syncthreads();
unsigned short half_bits(float);
float half_value(unsigned short);
template <class T> T lowest() { return std::numeric_limits<T>::lowest(); }
template <class T> T highest() { return std::numeric_limits<T>::max(); }
