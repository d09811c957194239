// Reference attention in double, straight from the definition: all scores of a query, a mask, a softmax.
#pragma once

#include <cmath>
#include <functional>

#include "ops/attention_cases.h"
#include "support/catch.h"

namespace ssa::test {

struct DenseAttention {
  Values out, lse;
  Values probability;  ///< [B, T, HQ, U], 0 where masked
};

/// Whether token t of sequence b attends to key u: mask(b, t, kv_head, u).
using AttentionMask = std::function<bool(std::int64_t, std::int64_t, std::int64_t, std::int64_t)>;

/// With U keys per sequence. A token that attends to no key has out 0 and lse -infinity.
DenseAttention dense_attention(const AttentionDims& dims, std::int64_t U, const Values& q, const Values& k,
                               const Values& v, const AttentionMask& mask);

/// The mask of a block selection: token u is in a block selected for token t, and not after t.
class SelectionMask {
 public:
  SelectionMask(const AttentionDims& dims, std::int64_t block_size, const std::vector<std::int32_t>& indices)
      : dims_(dims), mask_(static_cast<std::size_t>(dims.B * dims.T * dims.HK * dims.T), false) {
    const std::int64_t rows = dims.B * dims.T * dims.HK, slots = static_cast<std::int64_t>(indices.size()) / rows;
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t s = 0; s < slots; ++s)
        for (std::int64_t u = 0; u <= row / dims.HK % dims.T; ++u)
          if (u / block_size == indices[row * slots + s]) mask_[row * dims.T + u] = true;
  }
  bool operator()(std::int64_t b, std::int64_t t, std::int64_t kv_head, std::int64_t u) const {
    return mask_[((b * dims_.T + t) * dims_.HK + kv_head) * dims_.T + u];
  }

 private:
  AttentionDims dims_;
  std::vector<bool> mask_;
};

/// Op and reference sum in double, in different orders.
inline constexpr double kDenseTolerance = 1e-13;

inline void check_dense(const Outputs& got, const DenseAttention& want) {
  CHECK(relative_error(output(got, "out"), want.out) < kDenseTolerance);
  CHECK(relative_error(output(got, "lse"), want.lse) < kDenseTolerance);
}

/// The first `tokens` tokens of each sequence of values [B, T, ...].
inline Values first_tokens(const AttentionDims& dims, const Values& values, std::int64_t tokens) {
  const std::int64_t row = static_cast<std::int64_t>(values.size()) / (dims.B * dims.T);
  Values first;
  for (std::int64_t b = 0; b < dims.B; ++b)
    first.insert(first.end(), values.begin() + b * dims.T * row, values.begin() + (b * dims.T + tokens) * row);
  return first;
}

/// Values [B, T, ...] with other numbers in token t of each sequence.
inline Values with_changed_token(const AttentionDims& dims, Values values, std::int64_t t) {
  const std::int64_t row = static_cast<std::int64_t>(values.size()) / (dims.B * dims.T);
  for (std::int64_t b = 0; b < dims.B; ++b)
    for (std::int64_t i = 0; i < row; ++i) {
      double& x = values[(b * dims.T + t) * row + i];
      x = 3 * x + 1;
    }
  return values;
}

}  // namespace ssa::test
