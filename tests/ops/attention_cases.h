// Shared by the cases of the attention ops: dimensions, random inputs, selections, caches.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/attention/documents.h"
#include "ssa/base/random.h"
#include "support/op_runner.h"
#include "support/sanitized.h"

namespace ssa::test {

struct AttentionDims {
  std::int64_t B, T, HK, G, D;

  std::int64_t HQ() const { return HK * G; }
  Shape query_shape() const { return {B, T, HQ(), D}; }
  Shape key_shape(std::int64_t U) const { return {B, U, HK, D}; }  ///< U keys per sequence
  Shape row_shape() const { return {B, T, HQ()}; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(D)); }
  std::string to_string() const { return concat("B ", B, " T ", T, " HK ", HK, " G ", G, " D ", D); }
  /// Multiplications of a dense forward, up to a constant.
  double work() const { return static_cast<double>(B * T * T) * static_cast<double>(HQ() * D); }
};

/// The head sizes that the CUDA attention kernels support.
inline bool cuda_supports_head_dim(const AttentionDims& dims) { return dims.D == 64 || dims.D == 128; }
inline bool cuda_supports_block_size(std::int64_t block_size) {
  return block_size == 16 || block_size == 32 || block_size == 64;
}

/// A derivative test runs the op about twenty times per input: only for cases below this `work`.
inline constexpr double kDerivativeWork = 3e5;

/// The cases for tests without CUDA, where the reference and f64 are slow: those of at most 300 tokens. Under the
/// sanitizers sequences of more than 150 tokens are 128 tokens shorter, which leaves the same rest of every block size.
template <class Case>
std::vector<Case> reference_cases(const std::vector<Case>& cases) {
  std::vector<Case> result;
  for (Case c : cases) {
    if (c.dims.T > 300) continue;
    if (kSanitized && c.dims.T > 150) c.dims.T -= 128;
    result.push_back(c);
  }
  return result;
}

inline std::int64_t block_number(std::int64_t T, std::int64_t block_size) { return (T + block_size - 1) / block_size; }

/// With U keys per sequence.
struct AttentionInputs {
  Values q, k, v, d_out;
  Values d_q, d_k, d_v;  ///< values of the gradients before a backward that accumulates

  AttentionInputs(const AttentionDims& dims, std::int64_t U)
      : q(random_values(dims.query_shape().count(), 1)),
        k(random_values(dims.key_shape(U).count(), 2)),
        v(random_values(dims.key_shape(U).count(), 3)),
        d_out(loss_weights(dims.query_shape().count())),
        d_q(random_values(dims.query_shape().count(), 4)),
        d_k(random_values(dims.key_shape(U).count(), 5)),
        d_v(random_values(dims.key_shape(U).count(), 6)) {}
};

/// The results of the forward that the backward needs: lse, and delta = sum over D of d_out * out.
struct AttentionSaved {
  Values lse, delta;

  AttentionSaved(const AttentionDims& dims, const Outputs& forward, const Values& d_out)
      : lse(output(forward, "lse")), delta(lse.size(), 0.0) {
    const Values& out = output(forward, "out");
    for (std::size_t i = 0; i < out.size(); ++i) delta[i / static_cast<std::size_t>(dims.D)] += d_out[i] * out[i];
  }
};

/// [B, N, HK, D]: mean of k [B, T, HK, D] over the tokens of each block.
inline Values block_means(const AttentionDims& dims, std::int64_t block_size, const Values& k) {
  const std::int64_t N = block_number(dims.T, block_size), row = dims.HK * dims.D;
  Values means(static_cast<std::size_t>(dims.B * N * row), 0.0);
  for (std::int64_t b = 0; b < dims.B; ++b)
    for (std::int64_t t = 0; t < dims.T; ++t) {
      const std::int64_t n = t / block_size, tokens = std::min(block_size, dims.T - n * block_size);
      for (std::int64_t i = 0; i < row; ++i)
        means[(b * N + n) * row + i] += k[(b * dims.T + t) * row + i] / static_cast<double>(tokens);
    }
  return means;
}

/// Where document pieces begin, in addition to token 0, ascending. Sequence b has the pieces that begin at the b-th of
/// them and later, so that the sequences differ. Empty: no document mask.
using PieceBegins = std::vector<std::int64_t>;

/// The first token of the piece that token t of sequence b is in.
inline std::int64_t piece_begin(const PieceBegins& begins, std::int64_t b, std::int64_t t) {
  std::int64_t begin = 0;
  for (std::int64_t i = b; i < std::ssize(begins); ++i)
    if (begins[static_cast<std::size_t>(i)] <= t) begin = begins[static_cast<std::size_t>(i)];
  return begin;
}

inline DocumentBounds document_bounds(OpRunner& run, const AttentionDims& dims, const PieceBegins& begins) {
  if (begins.empty()) return {};
  std::vector<std::int32_t> begin(static_cast<std::size_t>(dims.B * dims.T)), end(begin);
  for (std::int64_t i = dims.B * dims.T - 1; i >= 0; --i) {
    const auto at = static_cast<std::size_t>(i);
    const std::int64_t b = i / dims.T, t = i % dims.T;
    begin[at] = static_cast<std::int32_t>(piece_begin(begins, b, t));
    end[at] = t + 1 == dims.T || begin[at + 1] == t + 1 ? static_cast<std::int32_t>(t + 1) : end[at + 1];
  }
  return {.begin = run.i32_input(begin, {dims.B, dims.T}), .end = run.i32_input(end, {dims.B, dims.T})};
}

inline std::string to_string(const PieceBegins& begins) {
  std::string text = begins.empty() ? "" : " pieces from";
  for (const std::int64_t begin : begins) text += concat(" ", begin);
  return text;
}

/// Which earlier blocks `make_selection` takes in addition to the own block.
enum class Earlier {
  random,
  first,  ///< the first blocks, for every token: the longest list of tokens that one block can have
};

/// A selection [B, T, HK, slots] in the format of select_blocks, not based on scores.
inline std::vector<std::int32_t> make_selection(const AttentionDims& dims, std::int64_t block_size, std::int64_t slots,
                                                Earlier earlier, const PieceBegins& begins = {}) {
  std::vector<std::int32_t> indices;
  for (std::int64_t row = 0; row < dims.B * dims.T * dims.HK; ++row) {
    const std::int64_t t = row / dims.HK % dims.T, own = t / block_size;
    const std::int64_t first = piece_begin(begins, row / dims.HK / dims.T, t) / block_size;
    std::vector<std::pair<double, std::int32_t>> order;
    for (std::int64_t n = first; n < own; ++n)
      order.emplace_back(
          earlier == Earlier::first
              ? static_cast<double>(n)
              : random_uniform(9, RandomPurpose::test, static_cast<std::uint64_t>(row), static_cast<std::uint64_t>(n)),
          static_cast<std::int32_t>(n));
    std::sort(order.begin(), order.end());
    order.resize(static_cast<std::size_t>(std::min(own - first, slots - 1)));
    std::vector<std::int32_t> chosen;
    for (const auto& [key, n] : order) chosen.push_back(n);
    std::sort(chosen.begin(), chosen.end());
    chosen.push_back(static_cast<std::int32_t>(own));
    chosen.resize(static_cast<std::size_t>(slots), -1);
    indices.insert(indices.end(), chosen.begin(), chosen.end());
  }
  return indices;
}

/// Values [B, T, each] with the T tokens of each sequence in reverse order.
template <class T>
std::vector<T> reversed_tokens(const std::vector<T>& values, std::int64_t rows, std::int64_t tokens) {
  const auto each = static_cast<std::int64_t>(values.size()) / (rows * tokens);
  std::vector<T> out;
  for (std::int64_t b = 0; b < rows; ++b)
    for (std::int64_t t = tokens - 1; t >= 0; --t)
      out.insert(out.end(), values.begin() + (b * tokens + t) * each, values.begin() + (b * tokens + t + 1) * each);
  return out;
}

/// Positions T - 1, T - 2, ... 0 for each sequence.
inline std::vector<std::int32_t> descending_positions(std::int64_t rows, std::int64_t tokens) {
  std::vector<std::int32_t> positions;
  for (std::int64_t i = 0; i < rows * tokens; ++i)
    positions.push_back(static_cast<std::int32_t>(tokens - 1 - i % tokens));
  return positions;
}

/// Values [B, count, each] with `spare` unused places per sequence, all NaN: a cache that is not full.
inline Values padded_cache(const Values& values, std::int64_t rows, std::int64_t spare, std::int64_t each) {
  const auto length = static_cast<std::int64_t>(values.size()) / rows;
  Values out;
  for (std::int64_t b = 0; b < rows; ++b) {
    out.insert(out.end(), values.begin() + b * length, values.begin() + (b + 1) * length);
    out.insert(out.end(), static_cast<std::size_t>(spare * each), std::numeric_limits<double>::quiet_NaN());
  }
  return out;
}

}  // namespace ssa::test
