// A group of lanes takes one (token, head): D values, 8 per lane. Streaming. Each CTA of the forward leaves a partial
// sum of the alignment, and a second kernel adds the partial sums in order.
#include "gate_alignment.h"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/sum.cuh"
#include "kernels/common/device/vector.cuh"
#include "kernels/quantize_fp8/fp8_tile.cuh"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kGates = 3, kSelected = 1;  ///< gates per head, and the index of g_slc
constexpr int kHeadsPerCta = kGateAlignmentHeadsPerCta;

/// SmoothL1 of two values at this distance.
__device__ __forceinline__ float smooth_l1(float distance) {
  return distance < 1.0f ? 0.5f * distance * distance : distance - 0.5f;
}

/// CTA (x, b) takes kHeadsPerCta heads of sequence b and writes its sum of SmoothL1 to partials[b * gridDim.x + x]. A
/// thread has only two vectors in flight: many CTAs per SM, at different stages, provide the bandwidth. f32 is enough
/// for the sum of a CTA, which has few terms of one sign; the partial sums are added in f64.
template <int kVec, int kLanes>
__global__ void __launch_bounds__(kThreads, 6)
    gate_alignment_forward_kernel(__nv_bfloat16* out, float* partials, const float* gates, const __nv_bfloat16* full,
                                  const __nv_bfloat16* sparse, const std::int32_t* full_stream,
                                  std::int64_t heads_per_sequence, int head_size) {
  const int D = kVec > 1 ? kLanes * kVec : head_size;  // a compile-time constant if a head is one vector per lane
  __shared__ float shared[kThreads / kWarpSize];
  const bool passes_full = __ldg(full_stream + blockIdx.y) == 1;
  const std::int64_t sequence_begin = blockIdx.y * heads_per_sequence,
                     sequence_end = sequence_begin + heads_per_sequence;
  const std::int64_t begin = sequence_begin + static_cast<std::int64_t>(blockIdx.x) * kHeadsPerCta;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kHeadsPerCta; i += kThreads / kLanes) {
    const std::int64_t head = begin + i + threadIdx.x / kLanes;
    if (head >= sequence_end) continue;
    const float gate = __ldg(gates + head * kGates + kSelected);
    for (int d = static_cast<int>(threadIdx.x % kLanes) * kVec; d < D; d += kLanes * kVec) {
      const Floats<kVec> a = load_constant<kVec>(full + head * D + d), b = load_constant<kVec>(sparse + head * D + d);
      Floats<kVec> y = passes_full ? a : b;
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        sum += smooth_l1(fabsf((a[j] - b[j]) * gate));
        y[j] *= gate;
      }
      store<kVec, WholeWrite>(out + head * D + d, y);
    }
  }
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) partials[static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = sum;
}

/// The same in FP8: one CTA per tile of 128 tokens and 128 columns. A head's columns are a multiple of 8, so a thread's
/// belong to one head.
__global__ void __launch_bounds__(kFp8TileThreads, 3)
    gate_alignment_forward_fp8_kernel(Fp8Target fp8, Fp8Target fp8_t, float* partials, const float* gates,
                                      const __nv_bfloat16* full, const __nv_bfloat16* sparse,
                                      const std::int32_t* full_stream, int M, int T, int HQ, int D) {
  __shared__ alignas(16) Fp8TileShared shared;
  __shared__ float sums[kFp8TileThreads / kWarpSize];
  const Fp8TilePlace at;
  const int columns = HQ * D, head = at.column / D;
  // Without branches between the rows, so that the loads of kRows rows are in flight together. Elements that are not
  // inside are 0.
  constexpr int kRows = 4;
  const bool inside = at.row < M && at.column < columns;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, row_of_lane = at.row + lane % 8;
  const unsigned streams =
      __ballot_sync(kFullMask, at.row < M && __ldg(full_stream + row_of_lane / T) == 1) >> (lane & 16);
  const std::int64_t begin = std::int64_t{at.row} * columns + at.column;
  full += begin;
  sparse += begin;
  gates += (std::int64_t{at.row} * HQ + head) * kGates + kSelected;
  uint4 tile[8];
  float sum = 0;
#pragma unroll
  for (int first = 0; first < 8; first += kRows) {
    uint4 loaded_full[kRows], loaded_sparse[kRows];
    float gate[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      loaded_full[i] = inside ? __ldg(reinterpret_cast<const uint4*>(full)) : uint4{};
      loaded_sparse[i] = inside ? __ldg(reinterpret_cast<const uint4*>(sparse)) : uint4{};
      gate[i] = inside ? __ldg(gates) : 0.0f;
      full += columns;
      sparse += columns;
      gates += HQ * kGates;
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const Floats<8> a = unpack_bf16(loaded_full[i]), b = unpack_bf16(loaded_sparse[i]);
      Floats<8> y = (streams >> (first + i) & 1) != 0 ? a : b;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        sum += smooth_l1(fabsf((a[j] - b[j]) * gate[i]));
        y[j] *= gate[i];
      }
      tile[first + i] = pack_bf16(y);
    }
  }
  sum = block_sum<kFp8TileThreads>(sum, sums);
  if (threadIdx.x == 0) partials[static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = sum;
  quantize_tile<true, true>(fp8, fp8_t, shared, tile, at.tile_row, at.tile_column, M, columns);
}

template <int kVec, int kLanes>
__global__ void __launch_bounds__(kThreads)
    gate_alignment_backward_kernel(float* d_gates, __nv_bfloat16* d_full, float* delta_full, __nv_bfloat16* d_sparse,
                                   float* delta_sparse, const __nv_bfloat16* d_out, const float* gates,
                                   const __nv_bfloat16* full, const __nv_bfloat16* sparse,
                                   const std::int32_t* full_stream, std::int64_t heads, std::int64_t heads_per_sequence,
                                   int D, float full_scale, float sparse_scale) {
  const std::int64_t head = static_cast<std::int64_t>(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;
  const bool active = head < heads;  // inactive threads take part in the shuffles
  const int lane = static_cast<int>(threadIdx.x % kLanes);
  float d_gate = 0, delta_a = 0, delta_b = 0;
  if (active) {
    const float gate = gates[head * kGates + kSelected];
    const bool passes_full = full_stream[head / heads_per_sequence] == 1;
    for (int d = lane * kVec; d < D; d += kLanes * kVec) {
      Floats<kVec> g = load_constant<kVec>(d_out + head * D + d), d_a, d_b;
      const Floats<kVec> a = load_constant<kVec>(full + head * D + d), b = load_constant<kVec>(sparse + head * D + d);
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float c = fminf(fmaxf(gate * a[i] - gate * b[i], -1.0f), 1.0f);
        d_a[i] = full_scale * c + (passes_full ? g[i] : 0.0f);
        d_b[i] = -sparse_scale * c + (passes_full ? 0.0f : g[i]);
        d_gate += d_a[i] * a[i] + d_b[i] * b[i];
        d_a[i] = round_bf16(gate * d_a[i]);
        d_b[i] = round_bf16(gate * d_b[i]);
        delta_a += d_a[i] * a[i];
        delta_b += d_b[i] * b[i];
      }
      store<kVec>(d_full + head * D + d, d_a);
      store<kVec>(d_sparse + head * D + d, d_b);
    }
  }
  d_gate = warp_sum<kLanes>(d_gate);
  delta_a = warp_sum<kLanes>(delta_a);
  delta_b = warp_sum<kLanes>(delta_b);
  if (active && lane == 0) {
    for (int component = 0; component < kGates; ++component)
      d_gates[head * kGates + component] = component == kSelected ? d_gate : 0.0f;
    delta_full[head] = delta_a;
    delta_sparse[head] = delta_b;
  }
}

/// Calls f.operator()<vector width, lanes per head>().
template <class F>
void dispatch_head(std::int64_t D, F&& f) {
  if (D == 64) return f.template operator()<8, 8>();
  if (D == 128) return f.template operator()<8, 16>();
  return f.template operator()<1, 32>();
}

}  // namespace

void gate_alignment_forward(Stream& stream, const GateAlignmentForward& p) {
  constexpr auto op = "gate_alignment_forward";
  const Shape& shape = p.full.shape();
  const std::int64_t B = shape[0], T = shape[1], HQ = shape[2], D = shape[3], heads_per_sequence = T * HQ;
  auto* partials = static_cast<float*>(stream.scratch(scratch_bytes(p)));
  if (p.fp8) {
    const unsigned columns = ctas_for(HQ * D, kFp8Tile), rows = ctas_for(B * T, kFp8Tile);
    launch(stream, op, gate_alignment_forward_fp8_kernel, {.grid = {columns, rows}, .block = kFp8TileThreads},
           Fp8Target(p.fp8), Fp8Target(p.fp8_t), partials, p.gates.as<float>(), bf16(p.full), bf16(p.sparse),
           p.full_stream.as<std::int32_t>(), B * T, T, HQ, D);
    return add_sum(stream, op, p.alignment.as<double>(), partials, std::int64_t{columns} * rows, 2 * p.alignment_scale);
  }
  dispatch_head(D, [&]<int kVec, int kLanes>() {
    const unsigned ctas = ctas_for(heads_per_sequence, kHeadsPerCta);
    launch(stream, op, gate_alignment_forward_kernel<kVec, kLanes>,
           {.grid = dim3(ctas, static_cast<unsigned>(B)), .block = kThreads}, bf16(p.out), partials,
           p.gates.as<float>(), bf16(p.full), bf16(p.sparse), p.full_stream.as<std::int32_t>(), heads_per_sequence, D);
    // 2: the two loss terms have the same value.
    add_sum(stream, op, p.alignment.as<double>(), partials, B * ctas, 2 * p.alignment_scale);
  });
}

void gate_alignment_backward(Stream& stream, const GateAlignmentBackward& p) {
  const std::int64_t D = p.d_out.dim(3), heads = p.d_out.count() / D,
                     heads_per_sequence = p.d_out.dim(1) * p.d_out.dim(2);
  dispatch_head(D, [&]<int kVec, int kLanes>() {
    launch(stream, "gate_alignment_backward", gate_alignment_backward_kernel<kVec, kLanes>,
           {.grid = ctas_for(heads, kThreads / kLanes), .block = kThreads}, p.d_gates.as<float>(), bf16(p.d_full),
           p.delta_full.as<float>(), bf16(p.d_sparse), p.delta_sparse.as<float>(), bf16(p.d_out), p.gates.as<float>(),
           bf16(p.full), bf16(p.sparse), p.full_stream.as<std::int32_t>(), heads, heads_per_sequence, D, p.full_scale,
           p.sparse_scale);
  });
}

}  // namespace ssa::cuda
