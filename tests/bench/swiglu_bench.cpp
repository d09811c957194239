#include "bench/bench.h"
#include "bench/fp8_tensors.h"
#include "kernels/swiglu/swiglu.h"

using namespace ssa;

SSA_BENCH(swiglu) {
  const std::int64_t M = bench.shapes.M(), F = bench.shapes.model.intermediate_size;
  const double row_bytes = 2.0 * static_cast<double>(M * F);
  bench.measure("swiglu_forward", {.bytes = 3 * row_bytes}, [&]() -> bench::Call {
    const Tensor out = bench.empty(DType::bf16, {M, F}), gate_up = bench.random(DType::bf16, {M, 2 * F});
    return [=](Stream& stream) { swiglu_forward(stream, {.out = out, .gate_up = gate_up}); };
  });
  bench.measure("swiglu_backward", {.bytes = 5 * row_bytes}, [&]() -> bench::Call {
    const Tensor gate_up = bench.random(DType::bf16, {M, 2 * F}), d_gate_up = bench.empty(DType::bf16, {M, 2 * F});
    const Tensor d_out = bench.random(DType::bf16, {M, F});
    return
        [=](Stream& stream) { swiglu_backward(stream, {.d_gate_up = d_gate_up, .d_out = d_out, .gate_up = gate_up}); };
  });
  bench.measure("swiglu_backward, recomputing the output", {.bytes = 6 * row_bytes}, [&]() -> bench::Call {
    const Tensor gate_up = bench.random(DType::bf16, {M, 2 * F}), d_gate_up = bench.empty(DType::bf16, {M, 2 * F});
    const Tensor out = bench.empty(DType::bf16, {M, F}), d_out = bench.random(DType::bf16, {M, F});
    return [=](Stream& stream) {
      swiglu_backward(stream, {.d_gate_up = d_gate_up, .out = out, .d_out = d_out, .gate_up = gate_up});
    };
  });
  const auto forward_fp8 = [&] {
    return SwigluForward{.fp8 = bench::empty_fp8(bench, M, F, Fp8Blocks::row),
                         .fp8_t = bench::empty_fp8(bench, F, M, Fp8Blocks::row),
                         .gate_up = bench.random(DType::bf16, {M, 2 * F})};
  };
  const auto backward_fp8 = [&](const Tensor& out) {
    return SwigluBackward{.fp8 = bench::empty_fp8(bench, M, 2 * F, Fp8Blocks::row),
                          .fp8_t = bench::empty_fp8(bench, 2 * F, M, Fp8Blocks::square),
                          .out = out,
                          .d_out = bench.random(DType::bf16, {M, F}),
                          .gate_up = bench.random(DType::bf16, {M, 2 * F})};
  };
  bench.measure("swiglu_forward, FP8", {.bytes = 3 * row_bytes},
                [&]() -> bench::Call { return [op = forward_fp8()](Stream& stream) { swiglu_forward(stream, op); }; });
  bench.measure("swiglu_backward, FP8", {.bytes = 5 * row_bytes}, [&]() -> bench::Call {
    return [op = backward_fp8(/*out=*/{})](Stream& stream) { swiglu_backward(stream, op); };
  });
  bench.measure("swiglu_backward, FP8, recomputing the output", {.bytes = 6 * row_bytes}, [&]() -> bench::Call {
    return [op = backward_fp8(bench.empty(DType::bf16, {M, F}))](Stream& stream) { swiglu_backward(stream, op); };
  });
}
