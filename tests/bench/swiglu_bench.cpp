#include "bench/bench.h"
#include "kernels/swiglu/swiglu.h"

using namespace ssa;

SSA_BENCH(swiglu) {
  const std::int64_t M = bench.shapes.M(), F = bench.shapes.intermediate_size;
  const double row_bytes = 2.0 * static_cast<double>(M * F);
  bench.measure("swiglu_forward", {.bytes = 3 * row_bytes}, [&]() -> bench::Call {
    const Tensor out = bench.empty(DType::bf16, {M, F}), gate_up = bench.random(DType::bf16, {M, 2 * F});
    return [=](Stream& stream) { swiglu_forward(stream, {.out = out, .gate_up = gate_up}); };
  });
  bench.measure("swiglu_backward, recomputing the output", {.bytes = 6 * row_bytes}, [&]() -> bench::Call {
    const Tensor gate_up = bench.random(DType::bf16, {M, 2 * F}), d_gate_up = bench.empty(DType::bf16, {M, 2 * F});
    const Tensor out = bench.empty(DType::bf16, {M, F}), d_out = bench.random(DType::bf16, {M, F});
    return [=](Stream& stream) {
      swiglu_backward(stream, {.d_gate_up = d_gate_up, .out = out, .d_out = d_out, .gate_up = gate_up});
    };
  });
}
