// One CTA per token. Streaming: every element is read once and written once.
#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/math.cuh"
#include "kernels/common/device/vector.cuh"
#include "swiglu.h"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 256;

template <int kVec>
__global__ void __launch_bounds__(kThreads)
    swiglu_forward_kernel(__nv_bfloat16* out, const __nv_bfloat16* gate_up, int F) {
  const std::int64_t row = blockIdx.x;
  const __nv_bfloat16 *gate = gate_up + row * 2 * F, *up = gate + F;
  out += row * F;
#pragma unroll 4
  for (int f = static_cast<int>(threadIdx.x) * kVec; f < F; f += kThreads * kVec) {
    const Floats<kVec> g = load<kVec>(gate + f), u = load<kVec>(up + f);
    Floats<kVec> y;
#pragma unroll
    for (int i = 0; i < kVec; ++i) y[i] = g[i] * sigmoid(g[i]) * u[i];
    store<kVec>(out + f, y);
  }
}

/// d_gate_up may alias gate_up: a thread reads elements before it overwrites them.
template <int kVec>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(__nv_bfloat16* d_gate_up, __nv_bfloat16* out, const __nv_bfloat16* d_out,
                           const __nv_bfloat16* gate_up, int F) {
  const std::int64_t row = blockIdx.x;
  const __nv_bfloat16 *gate = gate_up + row * 2 * F, *up = gate + F;
  __nv_bfloat16 *d_gate = d_gate_up + row * 2 * F, *d_up = d_gate + F;
  d_out += row * F;
  if (out) out += row * F;
  for (int f = static_cast<int>(threadIdx.x) * kVec; f < F; f += kThreads * kVec) {
    Floats<kVec> g = load<kVec>(gate + f), u = load<kVec>(up + f), y;
    const Floats<kVec> d = load<kVec>(d_out + f);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const float s = sigmoid(g[i]), silu = g[i] * s;
      y[i] = silu * u[i];
      // d silu / d gate = s + gate s (1 - s)
      g[i] = d[i] * u[i] * (s + silu * (1.0f - s));
      u[i] = d[i] * silu;
    }
    store<kVec>(d_gate + f, g);
    store<kVec>(d_up + f, u);
    if (out) store<kVec>(out + f, y);
  }
}

}  // namespace

void swiglu_forward(Stream& stream, const SwigluForward& p) {
  const std::int64_t M = p.out.dim(0), F = p.out.dim(1);
  const auto kernel = F % 8 == 0 ? swiglu_forward_kernel<8> : swiglu_forward_kernel<1>;
  launch(stream, "swiglu_forward", kernel, {.grid = static_cast<unsigned>(M), .block = kThreads}, bf16(p.out),
         bf16(p.gate_up), F);
}

void swiglu_backward(Stream& stream, const SwigluBackward& p) {
  const std::int64_t M = p.d_out.dim(0), F = p.d_out.dim(1);
  const auto kernel = F % 8 == 0 ? swiglu_backward_kernel<8> : swiglu_backward_kernel<1>;
  launch(stream, "swiglu_backward", kernel, {.grid = static_cast<unsigned>(M), .block = kThreads}, bf16(p.d_gate_up),
         bf16(p.out), bf16(p.d_out), bf16(p.gate_up), F);
}

}  // namespace ssa::cuda
