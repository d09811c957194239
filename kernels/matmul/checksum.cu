#include "kernels/matmul/checksum.h"

#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/reduce.cuh"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 256, kCtas = 1024;

/// Sums a hash of (index, value) over 16-bit units. An integer sum does not depend on the order of the atomics.
__global__ void __launch_bounds__(kThreads)
    checksum_kernel(unsigned long long* sum, const std::uint16_t* data, std::int64_t count) {
  unsigned long long thread_sum = 0;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += kCtas * kThreads) {
    std::uint64_t x =
        (static_cast<std::uint64_t>(i) << 16 | data[i]) * 0x9e3779b97f4a7c15ull;  // splitmix64's constants
    x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9ull;
    thread_sum += x ^ (x >> 32);
  }
  thread_sum = warp_sum(thread_sum);
  if (threadIdx.x % kWarpSize == 0) atomicAdd(sum, thread_sum);
}

}  // namespace

void add_checksum(Stream& stream, std::uint64_t* sum, const void* data, std::size_t bytes) {
  launch(stream, "checksum", checksum_kernel, {.grid = kCtas, .block = kThreads},
         reinterpret_cast<unsigned long long*>(sum), static_cast<const std::uint16_t*>(data),
         bytes / sizeof(std::uint16_t));
}

}  // namespace ssa::cuda
