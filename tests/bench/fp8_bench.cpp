#include "bench/fp8_tensors.h"
#include "kernels/fp8_matmul/fp8_matmul.h"
#include "kernels/quantize_fp8/quantize_fp8.h"
#include "support/skip.h"

using namespace ssa;
using bench::empty_fp8;
using bench::random_fp8;

SSA_BENCH(quantize_fp8) {
  const std::int64_t M = bench.shapes.M(), H = bench.shapes.model.hidden_size,
                     N = 2 * bench.shapes.model.intermediate_size;
  const auto measure = [&](const std::string& name, std::int64_t rows, std::int64_t columns, bool plain,
                           bool transposed, Fp8Blocks blocks, Fp8Blocks blocks_t) {
    const double bytes = 2.0 + (plain ? 1 : 0) + (transposed ? 1 : 0);
    bench.measure(name, {.bytes = bytes * static_cast<double>(rows * columns)}, [&]() -> bench::Call {
      const Tensor x = bench.random(DType::bf16, {rows, columns});
      const Fp8Matrix fp8 = plain ? empty_fp8(bench, rows, columns, blocks) : Fp8Matrix();
      const Fp8Matrix fp8_t = transposed ? empty_fp8(bench, columns, rows, blocks_t) : Fp8Matrix();
      return [=](Stream& stream) { quantize_fp8(stream, {.plain = fp8, .transposed = fp8_t, .x = x}); };
    });
  };
  constexpr auto kRow = Fp8Blocks::row, kSquare = Fp8Blocks::square;
  measure("quantize_fp8, x", M, H, true, false, kRow, kRow);
  measure("quantize_fp8, x^T", M, H, false, true, kRow, kRow);
  measure("quantize_fp8, d_y and d_y^T", M, N, true, true, kRow, kSquare);
  measure("quantize_fp8, w and w^T", N, H, true, true, kSquare, kSquare);
}

SSA_BENCH(fp8_matmul) {
  if (!why_no_fp8(bench.stream).empty()) return;
  const bench::Shapes& s = bench.shapes;
  const std::int64_t H = s.model.hidden_size, Q = s.model.num_attention_heads * s.model.head_dim, kHeadTokens = 8192;
  constexpr auto kRow = Fp8Blocks::row, kSquare = Fp8Blocks::square;
  struct Layer {
    std::string name;
    std::int64_t tokens, inputs, outputs;
    Fp8Blocks d_y_t;  ///< blocks of the first operand of the weight gradient
  };
  const Layer layers[] = {{"qkvg", s.M(), H, s.model.qkvg_width(), kSquare},
                          {"o", s.M(), Q, H, kSquare},
                          {"gate and up", s.M(), H, 2 * s.model.intermediate_size, kSquare},
                          {"down", s.M(), s.model.intermediate_size, H, kSquare},
                          {"head, 8192 tokens", kHeadTokens, H, s.model.vocab_size, kRow}};
  // By cuBLASLt, then by the kernel of this project, where the GPU has it.
  struct By {
    std::string name;
    Fp8Kernel kernel;
  };
  std::vector<By> kernels = {{"", Fp8Kernel::cublaslt}};
  if (test::has_hopper_kernels(bench.stream)) kernels.push_back({", hopper kernel", Fp8Kernel::hopper});
  for (const By& by : kernels)
    for (const Layer& layer : layers) {
      const std::int64_t M = layer.tokens, K = layer.inputs, N = layer.outputs;
      const Fp8Kernel kernel = by.kernel;
      const bench::Work work{.flops = 2 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K)};
      bench.measure("fp8_matmul, " + layer.name + by.name, work, [&]() -> bench::Call {
        const Tensor y = bench.empty(DType::bf16, {M, fp8_padded(N)});
        const Fp8Matrix x = random_fp8(bench, M, K, kRow), w = random_fp8(bench, N, K, kSquare);
        return [=](Stream& stream) { fp8_matmul(stream, {.out = y, .a = x, .b = w, .kernel = kernel}); };
      });
      bench.measure("fp8_matmul, " + layer.name + ", input gradient" + by.name, work, [&]() -> bench::Call {
        const Tensor d_x = bench.empty(DType::bf16, {M, K});
        const Fp8Matrix d_y = random_fp8(bench, M, N, kRow), w = random_fp8(bench, K, N, kSquare);
        return [=](Stream& stream) { fp8_matmul(stream, {.out = d_x, .a = d_y, .b = w, .kernel = kernel}); };
      });
      bench.measure("fp8_matmul, " + layer.name + ", weight gradient" + by.name, work, [&]() -> bench::Call {
        const Tensor d_w = bench.zeros(DType::f32, {N, K});
        const Fp8Matrix d_y_t = random_fp8(bench, N, M, layer.d_y_t);
        const Fp8Matrix x_t = random_fp8(bench, K, M, layer.d_y_t == kRow ? kSquare : kRow);
        return [=](Stream& stream) {
          fp8_matmul(stream, {.out = d_w, .a = d_y_t, .b = x_t, .accumulate = true, .kernel = kernel});
        };
      });
    }
}
