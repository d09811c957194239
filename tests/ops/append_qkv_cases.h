// Test cases of append_qkv.
#pragma once

#include <cmath>

#include "kernels/attention/decode/append_qkv.h"
#include "kernels/qkv_rope/qkv_rope.h"
#include "ops/attention_cases.h"

namespace ssa::test {

struct AppendQkvCase {
  std::int64_t B, C, HQ, HK, D, block_size;
  std::vector<std::int32_t> positions;  ///< [B, T]
  bool k_mean = true, v_mean = true;

  std::int64_t T() const { return static_cast<std::int64_t>(positions.size()) / B; }
  std::int64_t columns() const { return (HQ + 2 * HK) * D + 3 * HQ; }
  Shape cache_shape() const { return {B, C, HK, D}; }
  Shape mean_shape() const { return {B, block_number(C, block_size), HK, D}; }
  Shape query_shape() const { return {B, T(), HQ, D}; }
  Shape gates_shape() const { return {B, T(), HQ, 3}; }
  std::string to_string() const {
    std::string text =
        concat("B ", B, " C ", C, " HQ ", HQ, " HK ", HK, " D ", D, " block_size ", block_size, " positions");
    for (const std::int32_t position : positions) text += concat(" ", position);
    return text;
  }
};

/// The first and the last position, inside and at the end of a block, sequences of different lengths, several tokens
/// across the end of a block, a cache whose last block never completes, no means.
inline const std::vector<AppendQkvCase> kAppendQkvCases = {{1, 1, 1, 1, 2, 1, {0}},
                                                           {2, 9, 4, 2, 6, 4, {0, 8}},
                                                           {3, 12, 3, 1, 8, 4, {3, 4, 11}},
                                                           {2, 10, 2, 2, 4, 3, {1, 2, 3, 4, 5, 6}},
                                                           {2, 20, 4, 2, 8, 4, {7, 15}, true, false},
                                                           {2, 20, 2, 2, 8, 4, {7, 15}, false, false},
                                                           {4, 70, 32, 2, 64, 16, {0, 15, 16, 63}},
                                                           {3, 257, 9, 3, 128, 64, {63, 254, 255}, true, false},
                                                           {1, 64, 8, 8, 64, 16, {13, 14, 15, 16}}};

struct AppendQkvInputs {
  Values k_cache, v_cache, k_mean, v_mean, qkvg, cos_sin;

  explicit AppendQkvInputs(const AppendQkvCase& c)
      : k_cache(random_values(c.cache_shape().count(), 1)),
        v_cache(random_values(c.cache_shape().count(), 2)),
        k_mean(random_values(c.mean_shape().count(), 3)),
        v_mean(random_values(c.mean_shape().count(), 4)),
        qkvg(random_values(c.B * c.T() * c.columns(), 5)) {
    for (std::int64_t position = 0; position < c.C; ++position)
      for (std::int64_t i = 0; i < c.D / 2; ++i) {
        const double angle = 0.7 * static_cast<double>(position) / static_cast<double>(i + 1);
        cos_sin.push_back(std::cos(angle));
        cos_sin.push_back(std::sin(angle));
      }
  }
};

inline AppendQkv append_qkv_of(OpRunner& run, const AppendQkvCase& c, const AppendQkvInputs& in,
                               const Tensor& read_later) {
  return {.q = run.act_output(c.query_shape()),
          .gates = run.f32_output(c.gates_shape()),
          .k_cache = run.act_input(in.k_cache, c.cache_shape()),
          .v_cache = run.act_input(in.v_cache, c.cache_shape()),
          .k_mean = c.k_mean ? run.act_input(in.k_mean, c.mean_shape()) : Tensor(),
          .v_mean = c.v_mean ? run.act_input(in.v_mean, c.mean_shape()) : Tensor(),
          .qkvg = run.act_input(in.qkvg, {c.B * c.T(), c.columns()}),
          .positions = run.i32_input(c.positions, {c.B, c.T()}),
          .cos_sin = run.f32_input(in.cos_sin, {c.C, c.D / 2, 2}),
          .block_size = c.block_size,
          .read_later = {{read_later}}};
}

/// q, gates and the cache tensors.
inline Outputs outputs_of(OpRunner& run, const AppendQkv& p) {
  Outputs out = {{"q", run.read(p.q)},
                 {"gates", run.read(p.gates)},
                 {"k_cache", run.read(p.k_cache)},
                 {"v_cache", run.read(p.v_cache)}};
  if (p.k_mean) out.push_back({"k_mean", run.read(p.k_mean)});
  if (p.v_mean) out.push_back({"v_mean", run.read(p.v_mean)});
  return out;
}

inline Outputs run_append_qkv(OpRunner& run, const AppendQkvCase& c, const AppendQkvInputs& in) {
  const AppendQkv p = append_qkv_of(run, c, in, run.act_input(in.qkvg, {c.B * c.T() * c.columns()}));
  append_qkv(run.stream(), p);
  return outputs_of(run, p);
}

/// q, k, v and gates of qkv_rope_forward.
inline Outputs run_qkv_rope_of(OpRunner& run, const AppendQkvCase& c, const AppendQkvInputs& in) {
  const Tensor q = run.act_output(c.query_shape()), gates = run.f32_output(c.gates_shape());
  const Tensor k = run.act_output({c.B, c.T(), c.HK, c.D}), v = run.act_output({c.B, c.T(), c.HK, c.D});
  qkv_rope_forward(run.stream(), {.q = q,
                                  .k = k,
                                  .v = v,
                                  .gates = gates,
                                  .qkvg = run.act_input(in.qkvg, {c.B * c.T(), c.columns()}),
                                  .positions = run.i32_input(c.positions, {c.B, c.T()}),
                                  .cos_sin = run.f32_input(in.cos_sin, {c.C, c.D / 2, 2}),
                                  .block_size = c.block_size});
  return {{"q", run.read(q)}, {"k", run.read(k)}, {"v", run.read(v)}, {"gates", run.read(gates)}};
}

}  // namespace ssa::test
