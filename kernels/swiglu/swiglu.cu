// One CTA per token, or, where the output is written transposed in FP8, per tile of 128 tokens and 128 columns, or
// several tiles. Streaming: every element is read once and written once.
#include <algorithm>

#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/math.cuh"
#include "kernels/common/device/vector.cuh"
#include "kernels/quantize_fp8/fp8_tile.cuh"
#include "kernels/quantize_fp8/own_rows.cuh"
#include "swiglu.h"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 256;

template <int kVec>
__global__ void __launch_bounds__(kThreads)
    swiglu_forward_kernel(__nv_bfloat16* out, Fp8Target fp8, const __nv_bfloat16* gate_up, int F) {
  wait_for_previous_kernel();
  const std::int64_t row = blockIdx.x;
  const __nv_bfloat16 *gate = gate_up + row * 2 * F, *up = gate + F;
#pragma unroll 4
  for (int f = static_cast<int>(threadIdx.x) * kVec; f < F; f += kThreads * kVec) {
    const Floats<kVec> g = load<kVec>(gate + f), u = load<kVec>(up + f);
    Floats<kVec> y;
#pragma unroll
    for (int i = 0; i < kVec; ++i) y[i] = g[i] * sigmoid(g[i]) * u[i];
    if (out) store<kVec>(out + row * F + f, y);
    if constexpr (kVec == 8)
      if (fp8.values) store_row_block(fp8, y, row, f, F);
  }
}

/// 8 adjacent elements, or zeros. Without a branch, so that the loads of several rows are in flight together.
__device__ __forceinline__ uint4 load_if(bool inside, const __nv_bfloat16* from) {
  return inside ? __ldg(reinterpret_cast<const uint4*>(from)) : uint4{};
}

/// With three, registers would spill in machine code for GPUs before Hopper.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kForwardCtasPerSm = 2;
#else
constexpr int kForwardCtasPerSm = 3;
#endif

template <bool kPlain>
__global__ void __launch_bounds__(kFp8TileThreads, kForwardCtasPerSm)
    swiglu_forward_fp8_kernel(Fp8Target fp8, Fp8Target fp8_t, __nv_bfloat16* out, const __nv_bfloat16* gate_up, int M,
                              int F) {
  __shared__ alignas(16) Fp8TileShared shared;
  const Fp8TilePlace at;
  const bool inside = at.row < M;  // M is a multiple of 16: all eight rows are inside, or none
  gate_up += std::int64_t{at.row} * 2 * F + at.column;
  if (out) out += std::int64_t{at.row} * F + at.column;
  constexpr int kRows = 4;  // in flight
  uint4 tile[8];
#pragma unroll
  for (int first = 0; first < 8; first += kRows) {
    uint4 gate[kRows], up[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i, gate_up += 2 * F) {
      gate[i] = load_if(inside, gate_up);
      up[i] = load_if(inside, gate_up + F);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const Floats<8> g = unpack_bf16(gate[i]), u = unpack_bf16(up[i]);
      Floats<8> y;
#pragma unroll
      for (int j = 0; j < 8; ++j) y[j] = g[j] * sigmoid(g[j]) * u[j];
      tile[first + i] = pack_bf16(y);
    }
  }
  if (out && inside) {
#pragma unroll
    for (int i = 0; i < 8; ++i, out += F) *reinterpret_cast<uint4*>(out) = tile[i];
  }
  quantize_tile<kPlain, true>(fp8, fp8_t, shared, tile, at.tile_row, at.tile_column, M, F);
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

// The backward that writes transposed FP8 runs two CTAs on an SM, each of which takes tiles blockIdx.x, blockIdx.x +
// gridDim.x, ... of 128 tokens and 128 columns. A tile is loaded into the place of the one before, row by row as soon
// as the place is free, so that most of it is in flight while the tile before it is rounded.
constexpr int kBackwardCtasPerSm = 2;

struct BackwardShared {
  Fp8SquareTileShared tile;
  OwnRows gate_up[2];  ///< their gradients replace them
  OwnRows d_out;
};

template <bool kOut>
__global__ void __launch_bounds__(kFp8TileThreads, kBackwardCtasPerSm)
    swiglu_backward_fp8_kernel(Fp8Target fp8, Fp8Target fp8_t, __nv_bfloat16* out, const __nv_bfloat16* d_out,
                               const __nv_bfloat16* gate_up, int M, int F, int tiles) {
  extern __shared__ uint4 dynamic_shared[];
  auto& shared = *reinterpret_cast<BackwardShared*>(dynamic_shared);
  const int tiles_of_row = F / kFp8Tile;
  int tile_row = static_cast<int>(blockIdx.x) / tiles_of_row, tile_column = static_cast<int>(blockIdx.x) % tiles_of_row;
  {
    const int thread = static_cast<int>(threadIdx.x);
    OwnSource gate(gate_up, 2 * F, tile_row, tile_column, M, true),
        up(gate_up + F, 2 * F, tile_row, tile_column, M, true), d(d_out, F, tile_row, tile_column, M, true);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      gate.copy_next(shared.gate_up[0][i][thread]);
      up.copy_next(shared.gate_up[1][i][thread]);
      d.copy_next(shared.d_out[i][thread]);
    }
  }
#pragma unroll 1
  for (int next = static_cast<int>(blockIdx.x + gridDim.x);; next += static_cast<int>(gridDim.x)) {
    const int thread = fresh(static_cast<int>(threadIdx.x));
    const int next_row = next / tiles_of_row, next_column = next % tiles_of_row;
    const bool more = next < tiles;
    cp_async_commit_group();
    cp_async_wait_group<0>();
    {
      OwnSource next_d(d_out, F, next_row, next_column, M, more);
      [[maybe_unused]] const int row = tile_row * kFp8Tile + thread / 16 * 8;
      [[maybe_unused]] __nv_bfloat16* to = nullptr;
      if constexpr (kOut) to = out + std::int64_t{row} * F + tile_column * kFp8Tile + thread % 16 * 8;
#pragma unroll 2
      for (int i = 0; i < 8; ++i) {
        uint4 &gate = shared.gate_up[0][i][thread], &up = shared.gate_up[1][i][thread];
        Floats<8> g = unpack_bf16(gate), u = unpack_bf16(up), y;
        const Floats<8> d = unpack_bf16(shared.d_out[i][thread]);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float s = sigmoid(g[j]), silu = g[j] * s;
          y[j] = silu * u[j];
          g[j] = d[j] * u[j] * (s + silu * (1.0f - s));
          u[j] = d[j] * silu;
        }
        gate = pack_bf16(g);
        up = pack_bf16(u);
        next_d.copy_next(shared.d_out[i][thread]);
        if constexpr (kOut) {
          if (row < M) *reinterpret_cast<uint4*>(to) = pack_bf16(y);
          to += F;
        }
      }
    }
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {
      OwnRows& place = shared.gate_up[part];
      OwnSource next_rows(gate_up + (part == 0 ? 0 : F), 2 * F, next_row, next_column, M, more);
      uint4 rows[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        rows[i] = place[i][thread];
        next_rows.copy_next(place[i][thread]);
      }
      quantize_tile<true, true, Fp8Sizes::whole, Fp8TileBlocks::row_and_square>(
          fp8, fp8_t, shared.tile, rows, tile_row, part * tiles_of_row + tile_column, M, 2 * F);
    }
    if (!more) return;
    tile_row = next_row;
    tile_column = next_column;
  }
}

}  // namespace

void swiglu_forward(Stream& stream, const SwigluForward& p) {
  const std::int64_t M = p.gate_up.dim(0), F = p.gate_up.dim(1) / 2;
  if (p.fp8_t) {
    const auto kernel = p.fp8 ? swiglu_forward_fp8_kernel<true> : swiglu_forward_fp8_kernel<false>;
    return launch(stream, "swiglu_forward", kernel, fp8_tiles(M, F), Fp8Target(p.fp8), Fp8Target(p.fp8_t), bf16(p.out),
                  bf16(p.gate_up), M, F);
  }
  const auto kernel = F % 8 == 0 ? swiglu_forward_kernel<8> : swiglu_forward_kernel<1>;
  launch(stream, "swiglu_forward", kernel, {.grid = static_cast<unsigned>(M), .block = kThreads, .waits = true},
         bf16(p.out), Fp8Target(p.fp8), bf16(p.gate_up), F);
}

void swiglu_backward(Stream& stream, const SwigluBackward& p) {
  const std::int64_t M = p.d_out.dim(0), F = p.d_out.dim(1);
  if (p.fp8) {
    const unsigned tiles = ctas_for(F, kFp8Tile) * ctas_for(M, kFp8Tile);
    const auto resident = static_cast<unsigned>(stream.cuda().properties.multiProcessorCount * kBackwardCtasPerSm);
    return launch(stream, "swiglu_backward",
                  p.out ? swiglu_backward_fp8_kernel<true> : swiglu_backward_fp8_kernel<false>,
                  {.grid = std::min(tiles, resident), .block = kFp8TileThreads, .shared_bytes = sizeof(BackwardShared)},
                  Fp8Target(p.fp8), Fp8Target(p.fp8_t), bf16(p.out), bf16(p.d_out), bf16(p.gate_up), M, F, tiles);
  }
  const auto kernel = F % 8 == 0 ? swiglu_backward_kernel<8> : swiglu_backward_kernel<1>;
  launch(stream, "swiglu_backward", kernel, {.grid = static_cast<unsigned>(M), .block = kThreads}, bf16(p.d_gate_up),
         bf16(p.out), bf16(p.d_out), bf16(p.gate_up), F);
}

}  // namespace ssa::cuda
