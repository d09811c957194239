// Test cases of append_kv.
#pragma once

#include "kernels/attention/decode/append_kv.h"
#include "ops/attention_cases.h"

namespace ssa::test {

struct AppendKvCase {
  std::int64_t B, C, HK, D, block_size;
  std::vector<std::int32_t> positions;  ///< [B, T]
  bool k_mean = true, v_mean = true;

  std::int64_t T() const { return static_cast<std::int64_t>(positions.size()) / B; }
  Shape cache_shape() const { return {B, C, HK, D}; }
  Shape mean_shape() const { return {B, block_number(C, block_size), HK, D}; }
  Shape new_shape() const { return {B, T(), HK, D}; }
  std::string to_string() const {
    std::string text = concat("B ", B, " C ", C, " HK ", HK, " D ", D, " block_size ", block_size, " positions");
    for (const std::int32_t position : positions) text += concat(" ", position);
    return text;
  }
};

/// The first and the last position, inside and at the end of a block, sequences of different lengths, several tokens
/// across the end of a block, a cache whose last block never completes, no means.
inline const std::vector<AppendKvCase> kAppendKvCases = {{1, 1, 1, 2, 1, {0}},
                                                         {2, 9, 2, 6, 4, {0, 8}},
                                                         {3, 12, 1, 8, 4, {3, 4, 11}},
                                                         {2, 10, 2, 3, 3, {1, 2, 3, 4, 5, 6}},
                                                         {2, 20, 2, 8, 4, {7, 15}, true, false},
                                                         {2, 20, 2, 8, 4, {7, 15}, false, false},
                                                         {4, 70, 2, 64, 16, {0, 15, 16, 63}},
                                                         {3, 257, 3, 128, 64, {63, 254, 255}, true, false},
                                                         {1, 64, 8, 64, 16, {13, 14, 15, 16}}};

/// Returns the four cache tensors, which have random values before the call.
inline Outputs run_append_kv(OpRunner& run, const AppendKvCase& c) {
  const auto random = [&](Shape shape, std::uint64_t seed) {
    return run.act_input(random_values(shape.count(), seed), shape);
  };
  const AppendKv p{.k_cache = random(c.cache_shape(), 1),
                   .v_cache = random(c.cache_shape(), 2),
                   .k_mean = c.k_mean ? random(c.mean_shape(), 3) : Tensor(),
                   .v_mean = c.v_mean ? random(c.mean_shape(), 4) : Tensor(),
                   .k = random(c.new_shape(), 5),
                   .v = random(c.new_shape(), 6),
                   .positions = run.i32_input(c.positions, {c.B, c.T()}),
                   .block_size = c.block_size};
  append_kv(run.stream(), p);
  Outputs out = {{"k_cache", run.read(p.k_cache)}, {"v_cache", run.read(p.v_cache)}};
  if (p.k_mean) out.push_back({"k_mean", run.read(p.k_mean)});
  if (p.v_mean) out.push_back({"v_mean", run.read(p.v_mean)});
  return out;
}

}  // namespace ssa::test
