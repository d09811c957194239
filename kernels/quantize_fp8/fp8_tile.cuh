// A CTA rounds a tile of 128 x 128 elements to FP8, as it is and transposed. Used by quantize_fp8 and by the ops that
// write their output in FP8.
//
// 256 threads; thread (group g of 16, lane l of 16) has rows 8 g .. 8 g + 7 and columns 8 l .. 8 l + 7, as bf16 in 8
// registers of 16 bytes. A row's 128 columns are in 16 adjacent lanes. For the transposed output the 8 rows of a column
// are packed into 8 bytes and pass through shared memory; chunk g of a column's 16 chunks is stored at chunk g ^ l, so
// that neither the stores nor the loads have bank conflicts.
#pragma once

#include <cuda_fp8.h>

#include <cstdint>
#include <type_traits>

#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/vector.cuh"
#include "kernels/quantize_fp8/fp8_matrix.h"

namespace ssa::cuda {

inline constexpr int kFp8TileThreads = 256;
inline constexpr int kFp8Tile = static_cast<int>(kFp8Block);

/// What rows and columns of a matrix may be: multiples of 16, which takes fewer registers, or any numbers.
enum class Fp8Sizes { whole, any };

/// Blocks of the plain and of the transposed output: what Fp8Target::square says, or known at compile time, which takes
/// fewer registers.
enum class Fp8TileBlocks { any, row_and_square };

template <Fp8Sizes kSizes>
__device__ __forceinline__ std::int64_t padded_size(int count) {
  return kSizes == Fp8Sizes::whole ? count : fp8_padded(count);
}

/// An output of a tile kernel; null `values`: not written.
struct Fp8Target {
  std::uint8_t* values = nullptr;
  float* scales = nullptr;
  std::int64_t scale_stride = 0;  ///< row blocks: whole rows of the matrix; square blocks: columns of `scales`
  std::int64_t last_scales = 0;   ///< row blocks: where the scales of the last 1 to 15 rows begin
  bool square = false;

  Fp8Target() = default;
  explicit Fp8Target(const Fp8Matrix& m) {
    if (!m) return;
    values = m.values.as<std::uint8_t>();
    scales = m.scales.as<float>();
    square = m.blocks == Fp8Blocks::square;
    scale_stride = square ? m.scales.dim(1) : fp8_whole_rows(m.rows);
    last_scales = fp8_blocks_of(m.columns) * scale_stride;
  }

  /// As fp8_row_scale_index.
  template <Fp8Sizes kSizes>
  __device__ __forceinline__ float& row_scale(int row, int block) const {
    return kSizes == Fp8Sizes::whole || row < scale_stride
               ? scales[block * scale_stride + row]
               : scales[last_scales + block * kFp8Alignment + (row - scale_stride)];
  }
};

using Fp8TileChunks = uint2[kFp8Tile][kFp8Tile / 8];  ///< [column][8 rows each]

/// What quantize_tile needs with Fp8TileBlocks::row_and_square.
struct Fp8SquareTileShared {
  Fp8TileChunks chunks;
  alignas(16) unsigned tile_max[kFp8TileThreads / kWarpSize];
};

struct Fp8TileShared : Fp8SquareTileShared {
  unsigned column_max[kFp8TileThreads / kWarpSize][kFp8Tile];
  float column_inverse[kFp8Tile];
};

/// Keeps the compiler from computing what depends on this value earlier, and keeping it in registers.
__device__ __forceinline__ int fresh(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

/// threadIdx.x, with kFresh so that nothing that depends on it is computed earlier.
template <bool kFresh>
__device__ __forceinline__ int thread_index() {
  const int thread = static_cast<int>(threadIdx.x);
  return kFresh ? fresh(thread) : thread;
}

/// The tile of this CTA in a grid of [columns / 128, rows / 128], and where this thread's 8 x 8 elements begin.
struct Fp8TilePlace {
  int tile_row = static_cast<int>(blockIdx.y), tile_column = static_cast<int>(blockIdx.x);
  int row, column;

  __device__ __forceinline__ explicit Fp8TilePlace(int thread = static_cast<int>(threadIdx.x))
      : row(tile_row * kFp8Tile + thread / 16 * 8), column(tile_column * kFp8Tile + thread % 16 * 8) {}
};

/// A CTA per tile of a [rows, columns] matrix, as Fp8TilePlace expects.
inline LaunchShape fp8_tiles(std::int64_t rows, std::int64_t columns) {
  return {.grid = {ctas_for(columns, kFp8Tile), ctas_for(rows, kFp8Tile)}, .block = kFp8TileThreads};
}

struct Fp8Scale {
  float scale, inverse;
  /// From the bits of the largest magnitude; fp8_matrix.h has the formula.
  __device__ __forceinline__ explicit Fp8Scale(unsigned largest) {
    const float amax = __uint_as_float(max(largest, 0x08800000u));  // 2^-110
    scale = __fdiv_rn(amax, 448.0f);
    inverse = __fdiv_rn(448.0f, amax);
  }
};

/// Four floats rounded to nearest even, the first in the lowest byte. NaN stays NaN, also infinity * 0.
__device__ __forceinline__ std::uint32_t pack_fp8(float a, float b, float c, float d) {
  const auto low = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
  const auto high = __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
  return low | static_cast<std::uint32_t>(high) << 16;
}

/// Eight bf16 values times `inverse`, rounded.
__device__ __forceinline__ uint2 round_fp8(const uint4& x, float inverse) {
  float v[8];
  unpack_bf16(x.x, v[0], v[1]);
  unpack_bf16(x.y, v[2], v[3]);
  unpack_bf16(x.z, v[4], v[5]);
  unpack_bf16(x.w, v[6], v[7]);
  return make_uint2(pack_fp8(v[0] * inverse, v[1] * inverse, v[2] * inverse, v[3] * inverse),
                    pack_fp8(v[4] * inverse, v[5] * inverse, v[6] * inverse, v[7] * inverse));
}

/// Rounds 8 adjacent columns of a row, which 16 adjacent lanes continue to a row block: `y`, rounded to bf16 first, as
/// quantize_fp8 finds it in memory. `columns` is a multiple of 128.
__device__ __forceinline__ void store_row_block(const Fp8Target& to, Floats<8> y, std::int64_t row, std::int64_t column,
                                                std::int64_t columns) {
  const unsigned half = threadIdx.x % kWarpSize < 16 ? 0xffffu : 0xffff0000u;  // the other half may be past the row
  y = round_bf16<8>(y);
  unsigned largest = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) largest = max(largest, __float_as_uint(fabsf(y[i])));
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) largest = max(largest, __shfl_xor_sync(half, largest, offset));
  const Fp8Scale scale(largest);
  if (column % kFp8Tile == 0) to.scales[column / kFp8Tile * to.scale_stride + row] = scale.scale;
  const float by = scale.inverse;
  *reinterpret_cast<uint2*>(to.values + row * columns + column) = make_uint2(
      pack_fp8(y[0] * by, y[1] * by, y[2] * by, y[3] * by), pack_fp8(y[4] * by, y[5] * by, y[6] * by, y[7] * by));
}

/// Of two columns or rows, packed as bits of bf16 magnitudes: the larger one as the bits of a float.
__device__ __forceinline__ unsigned larger_half(unsigned pair) { return max(pair << 16, pair & 0xffff0000u); }

/// Each lane passes 8 values, each a pair of 16-bit numbers. Lane l of 16 adjacent lanes gets the maxima, over these
/// lanes, of the two numbers of value l / 2.
__device__ __forceinline__ unsigned max_of_rows(unsigned (&value)[8], int lane) {
#pragma unroll
  for (int half = 4; half > 0; half /= 2) {
    const bool upper = (lane & 2 * half) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const unsigned sent = upper ? value[i] : value[i + half], kept = upper ? value[i + half] : value[i];
      value[i] = __vmaxu2(kept, __shfl_xor_sync(kFullMask, sent, 2 * half));
    }
  }
  return __vmaxu2(value[0], __shfl_xor_sync(kFullMask, value[0], 1));
}

/// A mask of the first `count` of eight adjacent bf16 values; `count` may be less than 0 or more than 8.
__device__ __forceinline__ uint4 mask_of_first(int count) {
  const auto pair = [&](int first) { return count > first + 1 ? 0xffffffffu : count > first ? 0xffffu : 0u; };
  return make_uint4(pair(0), pair(2), pair(4), pair(6));
}

__device__ __forceinline__ uint4 operator&(const uint4& a, const uint4& b) {
  return make_uint4(a.x & b.x, a.y & b.y, a.z & b.z, a.w & b.w);
}

/// Stores a tile of [rows, columns] from shared memory, transposed: 8 threads store a column of the tile, 16 rows each.
/// Rows past the matrix fill the columns of the output up to a multiple of 16: they are zero in `chunks`.
template <Fp8Sizes kSizes, bool kFresh = false>
__device__ __forceinline__ void store_transposed(const Fp8Target& to, const Fp8TileChunks& chunks, int tile_row,
                                                 int tile_column, int rows, int columns) {
  const int thread = thread_index<kFresh>();
#pragma unroll
  for (int pass = 0; pass < 4; ++pass) {
    const int column = pass * 32 + thread / 8, part = thread % 8, swizzle = column / 8;
    const int out_row = tile_column * kFp8Tile + column, out_column = tile_row * kFp8Tile + 16 * part;
    const uint4 raw = *reinterpret_cast<const uint4*>(&chunks[column][(2 * part ^ swizzle) & ~1]);
    const uint4 ordered = swizzle % 2 ? make_uint4(raw.z, raw.w, raw.x, raw.y) : raw;
    if (out_row < columns && out_column < rows)
      *reinterpret_cast<uint4*>(to.values + out_row * padded_size<kSizes>(rows) + out_column) = ordered;
  }
}

struct Nothing {
  __device__ __forceinline__ void operator()() const {}
};

template <Fp8TileBlocks kBlocks>
using Fp8TileSharedOf =
    std::conditional_t<kBlocks == Fp8TileBlocks::row_and_square, Fp8SquareTileShared, Fp8TileShared>;

/// `x[i]`: columns 8 l .. 8 l + 7 of row 8 g + i of the tile; zero outside the matrix [rows, columns]. All 256 threads
/// call it. `shared` may be reused after the next __syncthreads(), and with kTransposed by the next quantize_tile
/// without one: what that writes before its first barrier was last read before the last barrier of this call.
/// `after_plain` is called when the plain output is on its way, before the work for the transposed output: the place
/// for loads.
template <bool kPlain, bool kTransposed, Fp8Sizes kSizes = Fp8Sizes::whole, Fp8TileBlocks kBlocks = Fp8TileBlocks::any,
          class AfterPlain = Nothing>
__device__ __forceinline__ void quantize_tile(const Fp8Target& plain, const Fp8Target& transposed,
                                              Fp8TileSharedOf<kBlocks>& shared, const uint4 (&x)[8], int tile_row,
                                              int tile_column, int rows, int columns, AfterPlain after_plain = {}) {
  constexpr bool kColumns = kTransposed && kBlocks != Fp8TileBlocks::row_and_square;  // may have of_columns
  constexpr bool kFresh = kSizes == Fp8Sizes::whole || kBlocks != Fp8TileBlocks::any;
  const int thread = thread_index<kFresh>(), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int g = thread / 16, l = thread % 16;
  const int first_row = tile_row * kFp8Tile + 8 * g, first_column = tile_column * kFp8Tile + 8 * l;
  const bool plain_square = kPlain && kBlocks == Fp8TileBlocks::any && plain.square;
  const bool transposed_square =
      kTransposed && (kBlocks == Fp8TileBlocks::any ? transposed.square : kBlocks == Fp8TileBlocks::row_and_square);
  const bool of_rows = kPlain && !plain_square, of_columns = kTransposed && !transposed_square;
  const bool of_tile = plain_square || transposed_square;

  // 1) Largest magnitudes, as bits of bf16 in pairs. As unsigned numbers they are ordered, NaN last.
  unsigned row_max[8], column_max[4] = {};  // column_max[j]: columns 2 j (lower half) and 2 j + 1
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const unsigned m[4] = {x[i].x & 0x7fff7fffu, x[i].y & 0x7fff7fffu, x[i].z & 0x7fff7fffu, x[i].w & 0x7fff7fffu};
#pragma unroll
    for (int j = 0; j < 4; ++j) column_max[j] = __vmaxu2(column_max[j], m[j]);
    row_max[i] = __vmaxu2(__vmaxu2(m[0], m[1]), __vmaxu2(m[2], m[3]));
  }
  if (of_tile) {
    const unsigned largest = __reduce_max_sync(
        kFullMask,
        larger_half(__vmaxu2(__vmaxu2(column_max[0], column_max[1]), __vmaxu2(column_max[2], column_max[3]))));
    if (lane == 0) shared.tile_max[warp] = largest;
  }
  if constexpr (kColumns) {
    if (of_columns) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        column_max[j] = __vmaxu2(column_max[j], __shfl_xor_sync(kFullMask, column_max[j], 16));
        if (lane < 16) {
          shared.column_max[warp][8 * l + 2 * j] = column_max[j] << 16;
          shared.column_max[warp][8 * l + 2 * j + 1] = column_max[j] & 0xffff0000u;
        }
      }
    }
  }
  const unsigned largest_of_row = of_rows ? larger_half(max_of_rows(row_max, lane)) : 0;  // of row l / 2
  __syncthreads();

  // 2) Scales
  float tile_inverse = 0, row_inverse = 0;
  if (of_tile) {
    unsigned largest = shared.tile_max[0];
#pragma unroll
    for (int w = 1; w < kFp8TileThreads / kWarpSize; ++w) largest = max(largest, shared.tile_max[w]);
    const Fp8Scale scale(largest);
    tile_inverse = scale.inverse;
    if (thread == 0) {
      if (plain_square) plain.scales[tile_row * plain.scale_stride + tile_column] = scale.scale;
      if (transposed_square) transposed.scales[tile_column * transposed.scale_stride + tile_row] = scale.scale;
    }
  }
  if (of_rows) {
    const Fp8Scale scale(largest_of_row);
    row_inverse = scale.inverse;
    const int row = first_row + l / 2;
    if (l % 2 == 0 && row < rows) plain.row_scale<kSizes>(row, tile_column) = scale.scale;
  }
  if constexpr (kColumns) {
    if (of_columns) {
      if (thread < kFp8Tile) {
        unsigned largest = shared.column_max[0][thread];
#pragma unroll
        for (int w = 1; w < kFp8TileThreads / kWarpSize; ++w) largest = max(largest, shared.column_max[w][thread]);
        const Fp8Scale scale(largest);
        shared.column_inverse[thread] = scale.inverse;
        const int column = tile_column * kFp8Tile + thread;
        if (column < columns) transposed.row_scale<kSizes>(column, tile_row) = scale.scale;
      }
      __syncthreads();
    }
  }

  // 3) The tile as it is
  if constexpr (kPlain) {
    const std::int64_t stride = padded_size<kSizes>(columns);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float inverse = of_rows ? __shfl_sync(kFullMask, row_inverse, 2 * i, 16) : tile_inverse;
      const int row = kSizes == Fp8Sizes::whole ? first_row : first_row + i;  // whole: all eight rows, or none
      if (row < rows && first_column < stride)
        *reinterpret_cast<uint2*>(plain.values + (first_row + i) * stride + first_column) = round_fp8(x[i], inverse);
    }
  }

  after_plain();

  // 4) The tile transposed
  if constexpr (kTransposed) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float inverse = tile_inverse;
      if constexpr (kColumns)
        if (of_columns) inverse = shared.column_inverse[8 * l + j];
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const unsigned pair = j < 2 ? x[i].x : j < 4 ? x[i].y : j < 6 ? x[i].z : x[i].w;
        v[i] = __uint_as_float(j % 2 ? pair & 0xffff0000u : pair << 16) * inverse;
      }
      shared.chunks[8 * l + j][g ^ l] = make_uint2(pack_fp8(v[0], v[1], v[2], v[3]), pack_fp8(v[4], v[5], v[6], v[7]));
    }
    __syncthreads();
    store_transposed<kSizes, kFresh>(transposed, shared.chunks, tile_row, tile_column, rows, columns);
  }
}

}  // namespace ssa::cuda
