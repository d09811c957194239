#include <algorithm>
#include <cmath>
#include <set>

#include "bench/bench.h"
#include "kernels/embedding/embedding.h"
#include "ssa/base/random.h"

using namespace ssa;

namespace {

/// Zipf-distributed ids, as words in text: the frequency of id r falls as 1 / r. Samples by the inverse distribution.
std::int32_t zipf(std::int64_t i, std::int64_t V) {
  const double u =
      0.5 + 0.5 * std::erf(random_normal(3, RandomPurpose::test, 0, static_cast<std::uint64_t>(i)) / std::sqrt(2.0));
  return static_cast<std::int32_t>(std::min(static_cast<double>(V - 1), std::pow(static_cast<double>(V), u) - 1));
}

}  // namespace

SSA_BENCH(embedding) {
  const std::int64_t M = bench.shapes.M(), H = bench.shapes.model.hidden_size, V = bench.shapes.model.vocab_size;
  const double row_bytes = static_cast<double>(H) * 2, tokens = static_cast<double>(M);
  std::set<std::int32_t> distinct;
  for (std::int64_t i = 0; i < M; ++i) distinct.insert(zipf(i, V));
  const double used = static_cast<double>(distinct.size());
  const auto id = [V](std::int64_t i) { return zipf(i, V); };
  bench.measure("embedding_forward", {.bytes = (tokens + used) * row_bytes}, [&]() -> bench::Call {
    const Tensor out = bench.empty(DType::bf16, {M, H}), weight = bench.random(DType::bf16, {V, H});
    const Tensor ids = bench.integers({M}, id);
    return [=](Stream& stream) { embedding_forward(stream, {.out = out, .ids = ids, .weight = weight}); };
  });
  const bench::Work backward{.bytes = tokens * row_bytes + used * 4 * row_bytes};
  bench.measure("embedding_backward, Zipf-distributed ids", backward, [&]() -> bench::Call {
    const Tensor d_weight = bench.zeros(DType::f32, {V, H}), d_out = bench.random(DType::bf16, {M, H});
    const Tensor ids = bench.integers({M}, id);
    return [=](Stream& stream) { embedding_backward(stream, {.d_weight = d_weight, .d_out = d_out, .ids = ids}); };
  });
  bench.measure("embedding_backward, one id", {.bytes = tokens * row_bytes}, [&]() -> bench::Call {
    const Tensor d_weight = bench.zeros(DType::f32, {V, H}), d_out = bench.random(DType::bf16, {M, H});
    const Tensor ids = bench.integers({M}, [](std::int64_t) { return 7; });
    return [=](Stream& stream) { embedding_backward(stream, {.d_weight = d_weight, .d_out = d_out, .ids = ids}); };
  });
}
