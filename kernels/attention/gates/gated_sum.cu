// A group of lanes takes one (token, head): D values, 8 per lane. Streaming.
#include <array>

#include "gated_sum.h"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/vector.cuh"
#include "kernels/quantize_fp8/fp8_tile.cuh"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBranches = 3;  ///< in the order of the gates: compressed, selected, window

template <class T>
struct Branches {
  T* of[kBranches];
};

template <int kVec, int kLanes>
__global__ void __launch_bounds__(kThreads)
    gated_sum_forward_kernel(__nv_bfloat16* out, const float* gates, Branches<const __nv_bfloat16> branches,
                             std::int64_t heads, int D) {
  wait_for_previous_kernel();
  const std::int64_t head = static_cast<std::int64_t>(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;
  if (head >= heads) return;
  for (int d = static_cast<int>(threadIdx.x % kLanes) * kVec; d < D; d += kLanes * kVec) {
    Floats<kVec> sum{};
#pragma unroll
    for (int branch = 0; branch < kBranches; ++branch) {
      if (!branches.of[branch]) continue;
      const float gate = gates[head * kBranches + branch];
      const Floats<kVec> x = load_constant<kVec>(branches.of[branch] + head * D + d);
#pragma unroll
      for (int i = 0; i < kVec; ++i) sum[i] += gate * x[i];
    }
    store<kVec>(out + head * D + d, sum);
  }
}

/// The same in FP8: one CTA per tile of 128 tokens and 128 columns. A head's columns are a multiple of 8, so a thread's
/// belong to one head.
__global__ void __launch_bounds__(kFp8TileThreads)
    gated_sum_forward_fp8_kernel(Fp8Target fp8, Fp8Target fp8_t, const float* gates,
                                 Branches<const __nv_bfloat16> branches, int M, int HQ, int D) {
  __shared__ alignas(16) Fp8TileShared shared;
  const Fp8TilePlace at;
  const int columns = HQ * D, head = at.column / D;
  uint4 tile[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    tile[i] = {};
    if (at.row >= M || at.column >= columns) continue;
    const std::int64_t row = at.row + i;
    Floats<8> sum{};
#pragma unroll
    for (int branch = 0; branch < kBranches; ++branch) {
      if (!branches.of[branch]) continue;
      const float gate = __ldg(gates + (row * HQ + head) * kBranches + branch);
      const Floats<8> x = load_constant<8>(branches.of[branch] + row * columns + at.column);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j] += gate * x[j];
    }
    tile[i] = pack_bf16(sum);
  }
  quantize_tile<true, true>(fp8, fp8_t, shared, tile, at.tile_row, at.tile_column, M, columns);
}

/// The branches are template parameters, so that the loads of all of them are in flight together and absent ones cost
/// nothing. The bound on CTAs per SM leaves each thread the registers that its loads need.
template <int kVec, int kLanes, bool kCompressed, bool kWindow>
__global__ void __launch_bounds__(kThreads, kCompressed || kWindow ? 5 : 8)
    gated_sum_backward_kernel(float* d_gates, Branches<__nv_bfloat16> d_branches, Branches<float> deltas,
                              const __nv_bfloat16* d_out, const float* gates, Branches<const __nv_bfloat16> branches,
                              std::int64_t heads, int head_size) {
  constexpr bool kPresent[kBranches] = {kCompressed, true, kWindow};
  const int D = kVec > 1 ? kLanes * kVec : head_size;  // a compile-time constant if a head is one vector per lane
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;
  const bool active = index < heads;
  const std::int64_t head = active ? index : heads - 1;  // inactive threads take part in the shuffles
  const int lane = static_cast<int>(threadIdx.x % kLanes);
  float gate[kBranches], d_gate[kBranches] = {}, delta[kBranches] = {};
#pragma unroll
  for (int branch = 0; branch < kBranches; ++branch)
    if (kPresent[branch]) gate[branch] = __ldg(gates + head * kBranches + branch);
  for (int d = lane * kVec; d < D; d += kLanes * kVec) {
    const std::int64_t at = head * D + d;
    const Floats<kVec> g = load_constant<kVec>(d_out + at);
    Floats<kVec> x[kBranches];
#pragma unroll
    for (int branch = 0; branch < kBranches; ++branch)
      if (kPresent[branch]) x[branch] = load_constant<kVec>(branches.of[branch] + at);
#pragma unroll
    for (int branch = 0; branch < kBranches; ++branch) {
      if (!kPresent[branch]) continue;
      Floats<kVec> d_x;
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        d_x[i] = round_bf16(gate[branch] * g[i]);
        d_gate[branch] += g[i] * x[branch][i];
        delta[branch] += d_x[i] * x[branch][i];
      }
      if (active) store<kVec>(d_branches.of[branch] + at, d_x);
    }
  }
#pragma unroll
  for (int branch = 0; branch < kBranches; ++branch) {
    if (!kPresent[branch]) continue;
    d_gate[branch] = warp_sum<kLanes>(d_gate[branch]);
    delta[branch] = warp_sum<kLanes>(delta[branch]);
  }
  if (!active) return;
  static_assert(kLanes >= kBranches && kBranches == 3);
  if (lane < kBranches)  // one store for all gates of the warp
    d_gates[head * kBranches + lane] = lane == 0 ? d_gate[0] : lane == 1 ? d_gate[1] : d_gate[2];
#pragma unroll
  for (int branch = 0; branch < kBranches; ++branch)
    if (kPresent[branch] && lane == 0) deltas.of[branch][head] = delta[branch];
}

/// Calls f.operator()<vector width, lanes per head>().
template <class F>
void dispatch_head(std::int64_t D, F&& f) {
  if (D == 64) return f.template operator()<8, 8>();
  if (D == 128) return f.template operator()<8, 16>();
  return f.template operator()<1, 32>();
}

Branches<const __nv_bfloat16> inputs(const Tensor& compressed, const Tensor& selected, const Tensor& window) {
  return {{bf16(compressed), bf16(selected), bf16(window)}};
}

}  // namespace

void gated_sum_forward(Stream& stream, const GatedSumForward& p) {
  const std::int64_t D = p.selected.dim(3), heads = p.selected.count() / D;
  if (p.fp8) {
    const std::int64_t M = p.fp8.values.dim(0), columns = p.fp8.values.dim(1);
    return launch(stream, "gated_sum_forward", gated_sum_forward_fp8_kernel, fp8_tiles(M, columns), Fp8Target(p.fp8),
                  Fp8Target(p.fp8_t), p.gates.as<float>(), inputs(p.compressed, p.selected, p.window), M, columns / D,
                  D);
  }
  dispatch_head(D, [&]<int kVec, int kLanes>() {
    launch(stream, "gated_sum_forward", gated_sum_forward_kernel<kVec, kLanes>,
           {.grid = ctas_for(heads, kThreads / kLanes), .block = kThreads, .waits = true}, bf16(p.out),
           p.gates.as<float>(), inputs(p.compressed, p.selected, p.window), heads, D);
  });
}

void gated_sum_backward(Stream& stream, const GatedSumBackward& p) {
  const std::int64_t D = p.d_out.dim(3), heads = p.d_out.count() / D;
  const Branches<__nv_bfloat16> d_branches{{bf16(p.d_compressed), bf16(p.d_selected), bf16(p.d_window)}};
  const Branches<float> deltas{
      {p.delta_compressed.as_or_null<float>(), p.delta_selected.as<float>(), p.delta_window.as_or_null<float>()}};
  dispatch_head(D, [&]<int kVec, int kLanes>() {
    const auto kernel = p.compressed ? p.window ? gated_sum_backward_kernel<kVec, kLanes, true, true>
                                                : gated_sum_backward_kernel<kVec, kLanes, true, false>
                        : p.window ? gated_sum_backward_kernel<kVec, kLanes, false, true>
                                     : gated_sum_backward_kernel<kVec, kLanes, false, false>;
    launch(stream, "gated_sum_backward", kernel, {.grid = ctas_for(heads, kThreads / kLanes), .block = kThreads},
           p.d_gates.as<float>(), d_branches, deltas, bf16(p.d_out), p.gates.as<float>(),
           inputs(p.compressed, p.selected, p.window), heads, D);
  });
}

}  // namespace ssa::cuda
