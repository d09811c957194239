// Typed wrappers over the instructions that tensor-core kernels are written in: cp.async, ldmatrix, mma.sync m16n8k16
// of bf16 with f32 accumulation, and the shared-memory tile that all of them agree on.
//
// Fragments of one warp, lane l, quad row r = l / 4, pair c = 2 (l % 4) (PTX ISA, "Matrix fragments for mma.m16n8k16"):
//   accumulator  c0 c1 = (r, c) (r, c + 1);  c2 c3 = (r + 8, c) (r + 8, c + 1)
//   A            two accumulators side by side, packed to bf16, are the A operand of the next product (pack_a)
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/common/device/math.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/vector.cuh"

namespace ssa::cuda {

__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

// ---- asynchronous copies ----

/// 16 bytes global to shared past L1; zeros when not `valid` (then `from` is not read).
__device__ __forceinline__ void cp_async_16(std::uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

/// The same through L1, for gathers that adjacent warps repeat.
__device__ __forceinline__ void cp_async_16_l1(std::uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

__device__ __forceinline__ void cp_async_4(std::uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid ? 4 : 0) : "memory");
}

__device__ __forceinline__ void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most `kPending` of this thread's newest groups are still in flight.
template <int kPending>
__device__ __forceinline__ void cp_async_wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- shared-memory tiles ----

/// kRows x kCols bf16. The 16-byte chunks of a row are permuted by the row's number modulo 8, so that the eight rows of
/// an 8 x 8 matrix, which ldmatrix reads at once, are in different banks.
template <int kRows_, int kCols_>
struct alignas(128) Tile {
  static constexpr int kRows = kRows_, kCols = kCols_, kChunks = kCols_ / 8;
  static_assert(kChunks % 8 == 0, "the permutation needs rows of at least 128 bytes");

  std::uint16_t data[kRows * kCols];

  /// Byte offset of a 16-byte chunk.
  static __device__ __forceinline__ std::uint32_t offset(int row, int chunk) {
    return static_cast<std::uint32_t>((row * kChunks + (chunk ^ (row & 7))) * 16);
  }
  __device__ __forceinline__ std::uint32_t address(int row, int chunk) const {
    return shared_address(data) + offset(row, chunk);
  }
};

/// Starts the copy of kRows rows, `stride` elements apart, by kThreads threads; rows from `valid` on become 0.
template <int kThreads, class TileType>
__device__ __forceinline__ void load_rows(const TileType& to, const __nv_bfloat16* from, std::int64_t stride, int valid,
                                          int thread) {
  constexpr int kRowsAtOnce =
      kThreads / TileType::kChunks;  // a multiple of 8: a thread's permuted chunk stays the same
  static_assert(kRowsAtOnce % 8 == 0 && TileType::kRows % kRowsAtOnce == 0);
  const int row = thread / TileType::kChunks, chunk = thread % TileType::kChunks;
  const __nv_bfloat16* source = from + row * stride + chunk * 8;
  const std::uint32_t target = to.address(row, chunk);
#pragma unroll
  for (int i = 0; i < TileType::kRows; i += kRowsAtOnce) {
    const bool inside = row + i < valid;
    cp_async_16(target + i * TileType::kChunks * 16, inside ? source : from, inside);
    source += kRowsAtOnce * stride;
  }
}

// ---- fragments ----

__device__ __forceinline__ void ldmatrix(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void ldmatrix_trans(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// A (16 x 16) = tile[row0 .. +16][16 k .. +16].
template <class TileType>
__device__ __forceinline__ void load_a(std::uint32_t (&a)[4], const TileType& tile, int row0, int k, int lane) {
  ldmatrix(a, tile.address(row0 + (lane & 15), 2 * k + (lane >> 4)));
}

/// A (16 x 16) = transpose of tile[row0 .. +16][col0 .. +16].
template <class TileType>
__device__ __forceinline__ void load_a_transposed(std::uint32_t (&a)[4], const TileType& tile, int row0, int col0,
                                                  int lane) {
  ldmatrix_trans(a, tile.address(row0 + (lane & 7) + ((lane >> 4) << 3), col0 / 8 + ((lane >> 3) & 1)));
}

/// B of two adjacent products, k = columns, n = rows of the tile: b[0..1] of rows row0 .. +8, b[2..3] of row0 + 8
/// ..
template <class TileType>
__device__ __forceinline__ void load_b(std::uint32_t (&b)[4], const TileType& tile, int row0, int k, int lane) {
  ldmatrix(b, tile.address(row0 + (lane & 7) + ((lane >> 4) << 3), 2 * k + ((lane >> 3) & 1)));
}

/// B of two adjacent products, k = rows, n = columns of the tile: b[0..1] of columns col0 .. +8, b[2..3] of col0 +
/// 8 ..
template <class TileType>
__device__ __forceinline__ void load_b_transposed(std::uint32_t (&b)[4], const TileType& tile, int row0, int col0,
                                                  int lane) {
  ldmatrix_trans(b, tile.address(row0 + (lane & 15), col0 / 8 + (lane >> 4)));
}

/// c += a b, one 16 x 8 tile over 16.
__device__ __forceinline__ void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two accumulators side by side (16 x 16) as the A operand of the next product.
__device__ __forceinline__ void pack_a(std::uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack_bf16(left[0], left[1]);
  a[1] = pack_bf16(left[2], left[3]);
  a[2] = pack_bf16(right[0], right[1]);
  a[3] = pack_bf16(right[2], right[3]);
}

// ---- over the four lanes that share a row of an accumulator ----

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kFullMask, x, 1));
  return fmaxf(x, __shfl_xor_sync(kFullMask, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(kFullMask, x, 1);
  return x + __shfl_xor_sync(kFullMask, x, 2);
}

/// Turns an accumulator's two pairs into four neighbours of one row: even lanes get row r, odd lanes row r + 8, both
/// from column 4 (l % 4 / 2) on. Made for 16-byte accesses to global memory.
struct RowOfFour {
  float4 values;
  int row;  ///< within the 16 x 8 tile
  int col;
};

__device__ __forceinline__ RowOfFour row_of_four(const float (&c)[4], int lane) {
  const bool odd = lane & 1;
  const float first = __shfl_xor_sync(kFullMask, odd ? c[0] : c[2], 1);
  const float second = __shfl_xor_sync(kFullMask, odd ? c[1] : c[3], 1);
  const int row = (lane >> 2) + (odd ? 8 : 0), col = (lane & 2) * 2;
  return {odd ? make_float4(first, second, c[2], c[3]) : make_float4(c[0], c[1], first, second), row, col};
}

/// *p += v in one reduction at L2. Order between threads is the caller's business.
__device__ __forceinline__ void reduce_add(float4* p, float4 v) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v.x), "f"(v.y), "f"(v.z),
               "f"(v.w)
               : "memory");
#else
  float* q = reinterpret_cast<float*>(p);
  atomicAdd(q, v.x);
  atomicAdd(q + 1, v.y);
  atomicAdd(q + 2, v.z);
  atomicAdd(q + 3, v.w);
#endif
}

// ---- counters in global memory that order the CTAs of a grid ----

/// Spins until *counter has reached `value`, and returns the counter. Writes before the matching announce() are then
/// visible to this thread, and to its CTA after the next __syncthreads().
__device__ __forceinline__ int wait_for(const int* counter, int value) {
  int seen;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  } while (seen < value);
  return seen;
}

/// Sets *counter to `value`, ordered after all writes of this thread's CTA before its last __syncthreads().
__device__ __forceinline__ void announce(int* counter, int value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(counter), "r"(value) : "memory");
}

}  // namespace ssa::cuda
