// Typed wrappers over wgmma (sm_90a): products of 64 rows by one warpgroup, B from shared memory. Accumulators and A in
// registers have the layout of mma.cuh, 16 rows a warp, so the two meet in one kernel.
//
// Shared operands are tiles of 64 columns (128 bytes a row) at 1024-byte boundaries: mma.cuh's permutation of a row's
// chunks is then the 128-byte swizzle. "Along the row" means that the contiguous columns are the product's inner
// dimension (K-major); "transposed" that they are its rows of A or columns of B (MN-major).
#pragma once

#include "kernels/common/context.cuh"
#include "kernels/common/mma.cuh"

namespace ssa::cuda {

/// Kernels in wgmma compile to nothing for other architectures; launchers ask has_wgmma().
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SSA_WGMMA_CODE 1
#else
#define SSA_WGMMA_CODE 0
#endif

/// Whether this build has code for sm_90a (cmake/cuda.cmake says so) and the stream's GPU is one.
inline bool has_wgmma(Stream& stream) { return SSA_CUDA_SM90A && stream.cuda().properties.major == 9; }

inline constexpr int kWarpgroupThreads = 128, kWarpgroupRows = 64;

/// 16 of the inner dimension further: columns of an operand along the row, rows of a transposed one.
inline constexpr std::uint64_t kNextAlongRow = 32 >> 4, kNextTransposed = 16 * 128 >> 4;

/// Of a tile of 64 columns, from `row` (a multiple of 8) on.
template <class TileType>
__device__ __forceinline__ std::uint64_t wgmma_operand(const TileType& tile, int row) {
  static_assert(TileType::kCols == 64);
  constexpr std::uint64_t kEightRows = 1024 >> 4, kSwizzle128 = 1;
  const std::uint64_t address = (shared_address(tile.data) + row * 128) & 0x3ffff;
  return address >> 4 | kEightRows << 16 | kEightRows << 32 | kSwizzle128 << 62;
}

#if SSA_WGMMA_CODE
/// Before the first product after registers or shared memory that it reads or adds to were written.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Makes this thread's ordinary writes to shared memory visible to products issued after the next barrier.
__device__ __forceinline__ void fence_shared_for_wgmma() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#define SSA_ACCUMULATORS(d)                                                                                    \
  "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),     \
      "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), \
      "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), \
      "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), \
      "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
#define SSA_ACCUMULATOR_NAMES                                                                                       \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31}"

/// d (64 x 64) = a b, or += a b with `add`, over 16 of the inner dimension; a in registers.
template <bool kTransposedB>
__device__ __forceinline__ void wgmma(float (&d)[8][4], const std::uint32_t (&a)[4], std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " SSA_ACCUMULATOR_NAMES
      ", {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}"
      : SSA_ACCUMULATORS(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)), "n"(kTransposedB ? 1 : 0));
}

/// The same with a in shared memory.
template <bool kTransposedA, bool kTransposedB>
__device__ __forceinline__ void wgmma(float (&d)[8][4], std::uint64_t a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " SSA_ACCUMULATOR_NAMES ", %32, %33, p, 1, 1, %35, %36;\n}"
      : SSA_ACCUMULATORS(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kTransposedA ? 1 : 0), "n"(kTransposedB ? 1 : 0));
}

#undef SSA_ACCUMULATORS
#undef SSA_ACCUMULATOR_NAMES
#endif

}  // namespace ssa::cuda
