// kernels/common/device: division by a number known on the host, by a multiplication and a shift instead of about
// thirty instructions.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>

namespace ssa::cuda {

/// Divides numbers in [0, 2^31). With s = ceil(log2 d), ceil(2^(31 + s) / d) overestimates 2^(31 + s) / d by less than
/// 2^s / 2^(31 + s), too little to change the quotient of a number below 2^31.
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(int divisor) : divisor_(divisor) {
    const auto d = static_cast<std::uint64_t>(divisor);
    const int bits = 31 + std::bit_width(d - 1);
    multiplier_ = static_cast<std::uint32_t>(((std::uint64_t{1} << bits) + d - 1) / d);
    shift_ = bits - 32;
  }

  struct Result {
    int quotient, rest;
  };
  __device__ __forceinline__ Result divide(int n) const {
    const int quotient =
        divisor_ == 1 ? n : static_cast<int>(__umulhi(static_cast<unsigned>(n), multiplier_) >> shift_);
    return {quotient, n - quotient * divisor_};
  }

 private:
  int divisor_ = 1, shift_ = 0;
  std::uint32_t multiplier_ = 0;
};

}  // namespace ssa::cuda
