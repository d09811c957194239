#include <algorithm>

#include "bench/bench.h"
#include "kernels/linear_cross_entropy/linear_cross_entropy.h"

using namespace ssa;

SSA_BENCH(linear_cross_entropy) {
  const std::int64_t M = bench.shapes.M(), H = bench.shapes.hidden_size, V = bench.shapes.vocab_size;
  const std::int64_t chunk = std::min<std::int64_t>(M, 8192);
  const double logits_count = static_cast<double>(M) * static_cast<double>(V);
  const bench::Work work{.bytes = logits_count * 2, .flops = 6 * logits_count * static_cast<double>(H)};
  const auto target = [V](std::int64_t i) { return static_cast<std::int32_t>(i * 7919 % V); };
  bench.measure("linear_cross_entropy, with gradients", work, [&]() -> bench::Call {
    const Tensor loss_sum = bench.zeros(DType::f64, {1}), losses = bench.empty(DType::f32, {M});
    const Tensor d_hidden = bench.empty(DType::bf16, {M, H}), d_weight = bench.zeros(DType::f32, {V, H});
    const Tensor logits = bench.empty(DType::bf16, {chunk, V}), hidden = bench.random(DType::bf16, {M, H});
    const Tensor weight = bench.random(DType::bf16, {V, H}, 0.02), targets = bench.integers({M}, target);
    return [=](Stream& stream) {
      linear_cross_entropy(stream, {.loss_sum = loss_sum,
                                    .losses = losses,
                                    .d_hidden = d_hidden,
                                    .d_weight = d_weight,
                                    .logits = logits,
                                    .hidden = hidden,
                                    .weight = weight,
                                    .targets = targets,
                                    .gradient_scale = 1e-4f,
                                    .accumulate = true});
    };
  });
}
