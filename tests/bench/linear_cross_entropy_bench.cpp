#include <algorithm>

#include "bench/bench.h"
#include "bench/fp8_tensors.h"
#include "kernels/fp8_matmul/fp8_matmul.h"
#include "kernels/linear_cross_entropy/linear_cross_entropy.h"
#include "ssa/model/activations.h"

using namespace ssa;

namespace {

LinearCrossEntropyFp8 empty_operands(bench::Bench& bench, std::int64_t chunk, std::int64_t H, std::int64_t V) {
  const auto operand = [&](std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) {
    return bench::fp8_memory(bench, rows, columns, blocks);
  };
  return {.hidden = operand(chunk, H, Fp8Blocks::row),
          .hidden_t = operand(H, chunk, Fp8Blocks::square),
          .weight = operand(V, H, Fp8Blocks::square),
          .weight_t = operand(H, V, Fp8Blocks::square),
          .d_logits = operand(chunk, V, Fp8Blocks::row),
          .d_logits_t = operand(V, chunk, Fp8Blocks::row)};
}

}  // namespace

SSA_BENCH(linear_cross_entropy) {
  const std::int64_t M = bench.shapes.M(), H = bench.shapes.model.hidden_size, V = bench.shapes.model.vocab_size;
  const std::int64_t chunk = logits_chunk_for(bench.shapes.model, M, DeviceKind::cuda);
  const double logits_count = static_cast<double>(M) * static_cast<double>(V);
  const bench::Work work{.bytes = logits_count * 2, .flops = 6 * logits_count * static_cast<double>(H)};
  const auto target = [V](std::int64_t i) { return static_cast<std::int32_t>(i * 7919 % V); };
  const auto make_set = [&](bool in_fp8) -> bench::Call {
    const Tensor loss_sum = bench.zeros(DType::f64, {1}), losses = bench.empty(DType::f32, {M});
    const Tensor d_hidden = bench.empty(DType::bf16, {M, H}), d_weight = bench.zeros(DType::f32, {V, H});
    const Tensor logits = bench.empty(DType::bf16, {chunk, in_fp8 ? fp8_padded(V) : padded_columns(V)}),
                 hidden = bench.random(DType::bf16, {M, H});
    const Tensor weight = bench.random(DType::bf16, {V, H}, 0.02), targets = bench.integers({M}, target);
    const LinearCrossEntropyFp8 fp8 = in_fp8 ? empty_operands(bench, chunk, H, V) : LinearCrossEntropyFp8{};
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
                                    .accumulate = true,
                                    .fp8 = in_fp8 ? &fp8 : nullptr});
    };
  };
  bench.measure("linear_cross_entropy, with gradients", work, [&] { return make_set(false); });
  if (why_no_fp8(bench.stream).empty())
    bench.measure("linear_cross_entropy in FP8, with gradients", work, [&] { return make_set(true); });
}
