// Test cases of qkv_rope.
#pragma once

#include <cmath>

#include "kernels/qkv_rope/qkv_rope.h"
#include "support/padded_rows.h"

namespace ssa::test {

struct QkvRopeCase {
  std::int64_t B, T, HQ, HK, D, block_size;
  bool means;
  bool padded = false;  ///< rows of qkvg and d_qkvg, with NaN

  std::int64_t M() const { return B * T; }
  std::int64_t N() const { return (T + block_size - 1) / block_size; }
  std::int64_t columns() const { return (HQ + 2 * HK) * D + 3 * HQ; }
  PaddedRows rows() const { return {M(), columns(), padded}; }
};

/// One token, a sequence shorter than a block, a partial last block, groups of 1, 3 and 16, the ssa-1b heads with both
/// supported head sizes, with and without block means; padded rows, also of 9 and 12 heads with vectors.
inline const std::vector<QkvRopeCase> kQkvRopeCases = {
    {1, 1, 1, 1, 2, 4, true},          {2, 3, 3, 1, 6, 16, true},         {1, 13, 4, 4, 16, 4, true},
    {3, 37, 6, 2, 16, 16, false},      {2, 33, 16, 1, 64, 16, true},      {1, 19, 32, 2, 64, 16, true},
    {2, 5, 32, 2, 128, 4, true},       {1, 48, 8, 2, 32, 16, false},      {2, 3, 3, 1, 6, 16, true, true},
    {1, 19, 9, 3, 64, 16, true, true}, {2, 5, 12, 1, 64, 4, false, true}, {1, 9, 12, 2, 128, 4, true, true}};

struct QkvRopeInputs {
  std::vector<std::int32_t> positions;
  Values cos_sin, qkvg;
  Values d_q, d_k, d_v, d_gates, d_k_mean, d_v_mean;

  explicit QkvRopeInputs(const QkvRopeCase& c)
      : qkvg(random_values(c.M() * c.columns(), 1)),
        d_q(loss_weights(c.M() * c.HQ * c.D, 2)),
        d_k(loss_weights(c.M() * c.HK * c.D, 3)),
        d_v(loss_weights(c.M() * c.HK * c.D, 4)),
        d_gates(loss_weights(c.M() * c.HQ * 3, 5)),
        d_k_mean(loss_weights(c.B * c.N() * c.HK * c.D, 6)),
        d_v_mean(loss_weights(c.B * c.N() * c.HK * c.D, 7)) {
    for (std::int64_t m = 0; m < c.M(); ++m) {  // documents of 7 tokens; sequences start inside a document
      const std::int64_t b = m / c.T, t = m % c.T;
      positions.push_back(static_cast<std::int32_t>((t + 2 * b) % 7));
    }
    for (std::int64_t position = 0; position < 7; ++position)
      for (std::int64_t i = 0; i < c.D / 2; ++i) {
        const double angle =
            static_cast<double>(position) * std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(c.D));
        cos_sin.push_back(std::cos(angle));
        cos_sin.push_back(std::sin(angle));
      }
  }
};

inline Outputs run_qkv_rope_forward(OpRunner& run, const QkvRopeCase& c, const QkvRopeInputs& in) {
  const Tensor q = run.act_output({c.B, c.T, c.HQ, c.D}), k = run.act_output({c.B, c.T, c.HK, c.D});
  const Tensor v = run.act_output({c.B, c.T, c.HK, c.D}), gates = run.f32_output({c.B, c.T, c.HQ, 3});
  const Shape mean_shape{c.B, c.N(), c.HK, c.D};
  const Tensor k_mean = c.means ? run.act_output(mean_shape) : Tensor();
  const Tensor v_mean = c.means ? run.act_output(mean_shape) : Tensor();
  qkv_rope_forward(run.stream(), {.q = q,
                                  .k = k,
                                  .v = v,
                                  .gates = gates,
                                  .k_mean = k_mean,
                                  .v_mean = v_mean,
                                  .qkvg = run.act_input(c.rows().pad(in.qkvg), c.rows().shape()),
                                  .positions = run.i32_input(in.positions, {c.B, c.T}),
                                  .cos_sin = run.f32_input(in.cos_sin, {7, c.D / 2, 2}),
                                  .block_size = c.block_size});
  Outputs outputs = {{"q", run.read(q)}, {"k", run.read(k)}, {"v", run.read(v)}, {"gates", run.read(gates)}};
  if (c.means) {
    outputs.push_back({"k_mean", run.read(k_mean)});
    outputs.push_back({"v_mean", run.read(v_mean)});
  }
  return outputs;
}

/// `gates` as the forward returned them.
inline Outputs run_qkv_rope_backward(OpRunner& run, const QkvRopeCase& c, const QkvRopeInputs& in,
                                     const Values& gates) {
  const Tensor d_qkvg = run.act_output(c.rows().shape());
  const Shape mean_shape{c.B, c.N(), c.HK, c.D};
  qkv_rope_backward(run.stream(), {.d_qkvg = d_qkvg,
                                   .d_q = run.f32_input(in.d_q, {c.B, c.T, c.HQ, c.D}),
                                   .d_k = run.f32_input(in.d_k, {c.B, c.T, c.HK, c.D}),
                                   .d_v = run.f32_input(in.d_v, {c.B, c.T, c.HK, c.D}),
                                   .d_gates = run.f32_input(in.d_gates, {c.B, c.T, c.HQ, 3}),
                                   .d_k_mean = c.means ? run.f32_input(in.d_k_mean, mean_shape) : Tensor(),
                                   .d_v_mean = c.means ? run.f32_input(in.d_v_mean, mean_shape) : Tensor(),
                                   .gates = run.f32_input(gates, {c.B, c.T, c.HQ, 3}),
                                   .positions = run.i32_input(in.positions, {c.B, c.T}),
                                   .cos_sin = run.f32_input(in.cos_sin, {7, c.D / 2, 2}),
                                   .block_size = c.block_size});
  return {{"d_qkvg", c.rows().unpad(run.read(d_qkvg))}};
}

}  // namespace ssa::test
