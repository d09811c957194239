#include "ops/qkv_rope_cases.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("qkv_rope splits qkvg, rotates q and k, takes the sigmoid of the gates and the block means") {
  for (QkvRopeCase c : kQkvRopeCases) {
    CAPTURE(c.B, c.T, c.HQ, c.HK, c.D, c.block_size);
    c.means = true;
    const QkvRopeInputs in(c);
    OpRunner run(Precision::exact);
    const Outputs out = run_qkv_rope_forward(run, c, in);
    Values q, k, v, gates;
    for (std::int64_t m = 0; m < c.M(); ++m) {
      const double* row = in.qkvg.data() + m * c.columns();
      const auto rotated = [&](const double* x, Values& to) {
        Values second;
        for (std::int64_t i = 0; i < c.D / 2; ++i) {
          const double* cs = in.cos_sin.data() + (in.positions[static_cast<std::size_t>(m)] * c.D / 2 + i) * 2;
          const double a = x[i], b = x[i + c.D / 2];
          to.push_back(a * cs[0] - b * cs[1]);
          second.push_back(b * cs[0] + a * cs[1]);
        }
        to.insert(to.end(), second.begin(), second.end());
      };
      for (std::int64_t h = 0; h < c.HQ; ++h) rotated(row + h * c.D, q);
      for (std::int64_t h = 0; h < c.HK; ++h) rotated(row + (c.HQ + h) * c.D, k);
      v.insert(v.end(), row + (c.HQ + c.HK) * c.D, row + (c.HQ + 2 * c.HK) * c.D);
      for (std::int64_t i = 0; i < 3 * c.HQ; ++i)
        gates.push_back(1 / (1 + std::exp(-row[(c.HQ + 2 * c.HK) * c.D + i])));
    }
    const auto mean = [&](const Values& x) {
      Values means;
      for (std::int64_t b = 0; b < c.B; ++b)
        for (std::int64_t n = 0; n < c.N(); ++n)
          for (std::int64_t i = 0; i < c.HK * c.D; ++i) {
            double sum = 0, count = 0;
            for (std::int64_t t = n * c.block_size; t < c.T && t < (n + 1) * c.block_size; ++t, ++count)
              sum += x[static_cast<std::size_t>((b * c.T + t) * c.HK * c.D + i)];
            means.push_back(sum / count);
          }
      return means;
    };
    CHECK(relative_error(output(out, "q"), q) < 1e-15);
    CHECK(relative_error(output(out, "k"), k) < 1e-15);
    CHECK(output(out, "v") == v);
    CHECK(relative_error(output(out, "gates"), gates) < 1e-15);
    CHECK(relative_error(output(out, "k_mean"), mean(k)) < 1e-15);
    CHECK(relative_error(output(out, "v_mean"), mean(v)) < 1e-15);
  }
}

TEST_CASE("qkv_rope backward is the derivative of forward") {
  for (const QkvRopeCase& c : kQkvRopeCases) {
    CAPTURE(c.B, c.T, c.HQ, c.HK, c.D, c.block_size, c.means);
    const QkvRopeInputs in(c);
    OpRunner run(Precision::exact);
    const Outputs forward = run_qkv_rope_forward(run, c, in);
    const Outputs backward = run_qkv_rope_backward(run, c, in, output(forward, "gates"));
    const auto loss = [&](const QkvRopeInputs& at) {
      OpRunner r(Precision::exact);
      const Outputs out = run_qkv_rope_forward(r, c, at);
      double sum = weighted_sum(output(out, "q"), in.d_q) + weighted_sum(output(out, "k"), in.d_k) +
                   weighted_sum(output(out, "v"), in.d_v) + weighted_sum(output(out, "gates"), in.d_gates);
      if (c.means)
        sum += weighted_sum(output(out, "k_mean"), in.d_k_mean) + weighted_sum(output(out, "v_mean"), in.d_v_mean);
      return sum;
    };
    check_gradient("qkvg", loss, in, &QkvRopeInputs::qkvg, output(backward, "d_qkvg"));
  }
}

TEST_CASE("qkv_rope in f32 agrees with f64 on any number of threads") {
  for (const QkvRopeCase& c : kQkvRopeCases) {
    CAPTURE(c.B, c.T, c.HQ, c.HK, c.D, c.block_size, c.means);
    const QkvRopeInputs in(c);
    check_f32([&](OpRunner& run) { return run_qkv_rope_forward(run, c, in); });
    OpRunner exact(Precision::exact);
    const Values gates = output(run_qkv_rope_forward(exact, c, in), "gates");
    check_f32([&](OpRunner& run) { return run_qkv_rope_backward(run, c, in, gates); });
  }
}

TEST_CASE("qkv_rope refuses tensors that do not fit") {
  QkvRopeCase c{1, 5, 2, 1, 4, 2, true};
  QkvRopeInputs in(c);
  OpRunner run(Precision::f32);
  in.positions.pop_back();
  CHECK_THROWS_WITH(qkv_rope_forward(run.stream(), {.q = run.act_output({1, 5, 2, 4}),
                                                    .k = run.act_output({1, 5, 1, 4}),
                                                    .v = run.act_output({1, 5, 1, 4}),
                                                    .gates = run.f32_output({1, 5, 2, 3}),
                                                    .qkvg = run.act_output({5, 22}),
                                                    .positions = run.i32_input(in.positions, {1, 4}),
                                                    .cos_sin = run.f32_input(in.cos_sin, {7, 2, 2}),
                                                    .block_size = 2}),
                    "qkv_rope_forward: positions is [1, 4], expected [1, 5]");
}

TEST_CASE("qkv_rope on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const QkvRopeCase& c : kQkvRopeCases) {
    CAPTURE(c.B, c.T, c.HQ, c.HK, c.D, c.block_size, c.means);
    const QkvRopeInputs in(c);
    check_cuda([&](OpRunner& run) { return run_qkv_rope_forward(run, c, in); });
    OpRunner exact(Precision::exact);
    const Values gates = output(run_qkv_rope_forward(exact, c, in), "gates");
    check_cuda([&](OpRunner& run) { return run_qkv_rope_backward(run, c, in, gates); });
  }
}
