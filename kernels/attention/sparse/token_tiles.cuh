// The order in which the forward and d_q kernels take tokens.
#pragma once

#include <climits>

#include "config.cuh"
#include "kernels/common/device/divide.cuh"
#include "ssa/base/error.h"

namespace ssa::cuda {

/// Up to 16 heads of one group of one token.
struct TokenTask {
  int t, kv_head, head, heads;  ///< heads [head, head + heads); heads = 0 for a token at or after T
  std::int64_t b;

  /// Index of the first head in [B, T, HQ].
  __device__ __forceinline__ std::int64_t position(const SparseArgs& a) const { return (b * a.T + t) * a.HQ + head; }
};

/// The tiles of all sequences and heads. Tiles of one sequence and head are consecutive, so that they run at the same
/// time and share L2.
class TokenTiles {
 public:
  template <class C>
  static TokenTiles make(const char* op, const SparseArgs& a) {
    SSA_CHECK(static_cast<std::int64_t>(a.T) * a.HK * C::kD <= INT_MAX, op, ": ", a.T, " tokens x ", a.HK, " heads x ",
              C::kD, ", expected at most ", INT_MAX, " in all");
    TokenTiles tiles;
    const int groups = (a.T + C::kTokens - 1) / C::kTokens;
    tiles.count_ = a.B * a.HK * a.parts() * groups;
    tiles.groups_ = Divisor(groups);
    tiles.head_parts_ = Divisor(a.HK * a.parts());
    tiles.parts_ = Divisor(a.parts());
    return tiles;
  }

  __host__ __device__ __forceinline__ int count() const { return count_; }
  template <class C>
  __device__ __forceinline__ TokenTask task(int tile, int token, const SparseArgs& a) const {
    const Divisor::Result rest_group = groups_.divide(tile), batch_head = head_parts_.divide(rest_group.quotient),
                          head_part = parts_.divide(batch_head.rest);
    const int group = a.HQ / a.HK, first = head_part.rest * 16;
    TokenTask task;
    task.t = rest_group.rest * C::kTokens + token;
    task.b = batch_head.quotient;
    task.kv_head = head_part.quotient;
    task.head = task.kv_head * group + first;
    task.heads = task.t < a.T ? min(16, group - first) : 0;
    return task;
  }

 private:
  int count_ = 0;
  Divisor groups_, head_parts_, parts_;
};

}  // namespace ssa::cuda
