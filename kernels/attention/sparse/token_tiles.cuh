// The order in which the forward and d_q kernels take tokens.
#pragma once

#include <algorithm>
#include <bit>
#include <climits>

#include "config.cuh"
#include "kernels/common/device/divide.cuh"
#include "ssa/base/error.h"

namespace ssa::cuda {

/// Up to 16 heads of one group of one token; packed: all heads of a group of up to 16 adjacent tokens.
struct TokenTask {
  int t, kv_head, head;  ///< the first token and head
  int rows;              ///< of the products that are in use: heads, packed times tokens; 0 for a token at or after T
  std::int64_t b;

  /// Index of the first row in [B, T, HQ].
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
    if constexpr (C::kPacked) tiles.pack<C>(a.group());
    const int tokens = C::kTokenWarps * tiles.tokens_per_warp_, groups = (a.T + tokens - 1) / tokens;
    tiles.count_ = a.B * a.HK * a.parts() * groups;
    tiles.groups_ = Divisor(groups);
    tiles.head_parts_ = Divisor(a.HK * a.parts());
    tiles.parts_ = Divisor(a.parts());
    return tiles;
  }

  __host__ __device__ __forceinline__ int count() const { return count_; }
  template <class C>
  __device__ __forceinline__ TokenTask task(int tile, int warp, const SparseArgs& a) const {
    const Divisor::Result rest_group = groups_.divide(tile), batch_head = head_parts_.divide(rest_group.quotient),
                          head_part = parts_.divide(batch_head.rest);
    const int group = a.HQ / a.HK, first = head_part.rest * 16;
    TokenTask task;
    task.b = batch_head.quotient;
    task.kv_head = head_part.quotient;
    task.head = task.kv_head * group + first;
    if constexpr (C::kPacked) {
      task.t = (rest_group.rest * C::kTokenWarps + warp) * tokens_per_warp_;
      task.rows = max(min(tokens_per_warp_, a.T - task.t), 0) * group;
    } else {
      task.t = rest_group.rest * C::kTokenWarps + warp;
      task.rows = task.t < a.T ? min(16, group - first) : 0;
    }
    return task;
  }

  /// Index in [B, T, HQ] of a row of a task, whose first row has the index `first`.
  template <class C>
  __device__ __forceinline__ std::int64_t position(std::int64_t first, int row, const SparseArgs& a) const {
    if constexpr (C::kPacked) return first + row + token_of_row(row) * (a.HQ - a.HQ / a.HK);
    return first + row;
  }

  // Packed only.

  __device__ __forceinline__ int tokens_per_warp() const { return tokens_per_warp_; }
  /// The token of a row, counted from the warp's first.
  __device__ __forceinline__ int token_of_row(int row) const { return row * row_multiplier_ >> 8; }
  /// The bits of a warp's tokens are adjacent, 1 << field_shift() for each warp, so that they share a word.
  __device__ __forceinline__ int field_shift() const { return field_shift_; }
  /// The bit of a token, counted from the tile's first.
  __device__ __forceinline__ int bit_of_token(int token) const {
    const Divisor::Result warp_rest = per_warp_.divide(token);
    return (warp_rest.quotient << field_shift_) + warp_rest.rest;
  }
  /// Words with the bits of a tile's tokens.
  __device__ __forceinline__ int words() const { return words_; }
  /// Blocks per plan.
  __device__ __forceinline__ int window() const { return window_; }

 private:
  template <class C>
  void pack(int group) {
    tokens_per_warp_ = kUnit / group;
    row_multiplier_ = (256 + group - 1) / group;  // exact for rows below 16
    field_shift_ = std::bit_width(static_cast<unsigned>(tokens_per_warp_ - 1));
    words_ = ((C::kTokenWarps << field_shift_) + kWarpSize - 1) / kWarpSize;
    window_ = std::min(C::kMaxWindow, C::kWindowWords / words_);
    per_warp_ = Divisor(tokens_per_warp_);
  }

  int count_ = 0;
  int tokens_per_warp_ = 1, row_multiplier_ = 0, field_shift_ = 0, words_ = 0, window_ = 0;
  Divisor groups_, head_parts_, parts_, per_warp_;
};

}  // namespace ssa::cuda
