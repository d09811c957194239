#include "bench/bench.h"
#include "kernels/optimizer/optimizer.h"

using namespace ssa;

SSA_BENCH(optimizer) {
  constexpr std::int64_t n = std::int64_t{1} << 28;  // a fifth of ssa-1b
  constexpr double values = static_cast<double>(n);
  bench.measure("squared_norm, 2^28 values", {.bytes = values * 4}, [&]() -> bench::Call {
    const Tensor out = bench.zeros(DType::f64, {1}), x = bench.random(DType::f32, {n});
    return [=](Stream& stream) { squared_norm(stream, {.out = out, .x = x}); };
  });
  bench.measure("adamw, 2^28 parameters", {.bytes = values * 30}, [&]() -> bench::Call {
    const Tensor master = bench.random(DType::f32, {n}), m = bench.zeros(DType::f32, {n}),
                 v = bench.zeros(DType::f32, {n});
    const Tensor weight = bench.empty(DType::bf16, {n}), gradient = bench.random(DType::f32, {n});
    return [=](Stream& stream) {
      adamw(stream, {.master = master,
                     .m = m,
                     .v = v,
                     .weight = weight,
                     .gradient = gradient,
                     .gradient_scale = 0.5f,
                     .learning_rate = 1e-4,
                     .beta1 = 0.9,
                     .beta2 = 0.95,
                     .epsilon = 1e-8,
                     .weight_decay = 0.1,
                     .step = 10});
    };
  });
  bench.measure("cast f32 to bf16, 2^28 values", {.bytes = values * 6}, [&]() -> bench::Call {
    const Tensor out = bench.empty(DType::bf16, {n}), x = bench.random(DType::f32, {n});
    return [=](Stream& stream) { cast(stream, {.out = out, .x = x}); };
  });
}
