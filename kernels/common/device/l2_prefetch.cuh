// kernels/common/device: loads memory that later kernels read into L2. The loads do not keep the kernel from ending.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "kernels/common/read_later.h"

namespace ssa::cuda {

struct L2Prefetch {
  static constexpr int kChunk = 4096;  ///< bytes of an instruction
  const char* begin[ReadLater::kMost];
  std::int64_t bytes[ReadLater::kMost];  ///< multiples of 16

  /// At most `most` bytes in all, from the beginning of each tensor.
  L2Prefetch(const ReadLater& later, std::int64_t most) {
    for (int i = 0; i < ReadLater::kMost; ++i) {
      const Tensor& tensor = later.tensors[static_cast<std::size_t>(i)];
      begin[i] = tensor ? static_cast<const char*>(tensor.data()) : nullptr;
      const bool aligned = reinterpret_cast<std::uintptr_t>(begin[i]) % 16 == 0;
      bytes[i] = tensor && aligned ? std::min(most, static_cast<std::int64_t>(tensor.bytes())) / 16 * 16 : 0;
      most -= bytes[i];
    }
  }

  bool is_empty() const {
    return std::all_of(std::begin(bytes), std::end(bytes), [](std::int64_t count) { return count == 0; });
  }

  /// Called by `workers` threads, each with its number. The compiler's target may be an older GPU: then nothing
  /// happens.
  __device__ __forceinline__ void start(int worker, int workers) const {
#if __CUDA_ARCH__ >= 900
#pragma unroll
    for (int i = 0; i < ReadLater::kMost; ++i)
      for (std::int64_t at = static_cast<std::int64_t>(worker) * kChunk; at < bytes[i];
           at += static_cast<std::int64_t>(workers) * kChunk) {
        const auto count = static_cast<std::uint32_t>(min(static_cast<std::int64_t>(kChunk), bytes[i] - at));
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(begin[i] + at)),
                     "r"(count)
                     : "memory");
      }
#endif
  }
};

}  // namespace ssa::cuda
