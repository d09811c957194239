// Typed wrappers over wgmma (sm_90a): products of 64 rows by one warpgroup, B from shared memory. Accumulators and A in
// registers have the layout of mma.cuh, 16 rows per warp, so one kernel can use both.
//
// Shared operands are tiles of 64 columns (128 bytes per row) at 1024-byte boundaries: mma.cuh's permutation of a row's
// chunks is then the 128-byte swizzle. "Along the row" means that the contiguous columns are the product's inner
// dimension (K-major); "transposed" that they are its rows of A or columns of B (MN-major).
#pragma once

#include "mma.cuh"
#include "src/runtime/cuda_context.h"

namespace ssa::cuda {

/// Kernels in wgmma compile to nothing for other architectures; launchers ask has_wgmma().
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SSA_WGMMA_CODE 1
#else
#define SSA_WGMMA_CODE 0
#endif

/// Whether the stream runs kernels in wgmma. CudaContext says when.
inline bool has_wgmma(Stream& stream) { return stream.cuda().hopper_kernels; }

inline constexpr int kWarpgroupThreads = 128, kWarpgroupRows = 64;

/// Descriptor steps of 16 in the inner dimension: columns of an operand along the row, rows of a transposed one.
inline constexpr std::uint64_t kNextAlongRow = 32 >> 4, kNextTransposed = 16 * 128 >> 4;

/// Of a tile of 64 columns, from a row at `address` (a multiple of 1024) on. `next_columns`: see below.
__device__ __forceinline__ std::uint64_t wgmma_operand(std::uint32_t address, std::uint64_t next_columns = 1024 >> 4) {
  constexpr std::uint64_t kEightRows = 1024 >> 4, kSwizzle128 = 1;
  return (address & 0x3ffff) >> 4 | next_columns << 16 | kEightRows << 32 | kSwizzle128 << 62;
}

/// Of a tile of 64 columns, from `row` (a multiple of 8) on. For a transposed operand of more columns, which continue
/// in the tiles after this one, kColumns says how many.
template <int kColumns = 64, class TileType>
__device__ __forceinline__ std::uint64_t wgmma_operand(const TileType& tile, int row) {
  static_assert(TileType::kCols == 64 && kColumns % 64 == 0);
  constexpr std::uint64_t kEightRows = 1024 >> 4;
  constexpr std::uint64_t kNextColumns = kColumns == 64 ? kEightRows : sizeof(TileType) >> 4;  // without effect for 64
  return wgmma_operand(shared_address(tile.data) + row * 128, kNextColumns);
}

#if SSA_WGMMA_CODE
/// Needed before the first product after a write to registers or shared memory that it reads or adds to.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Makes this thread's ordinary writes to shared memory visible to products issued after the next barrier.
__device__ __forceinline__ void fence_view_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#define SSA_NAMES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define SSA_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define SSA_FOUR(d, n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define SSA_THIRTY_TWO(d, n)                                                                                          \
  SSA_FOUR(d, n), SSA_FOUR(d, n + 1), SSA_FOUR(d, n + 2), SSA_FOUR(d, n + 3), SSA_FOUR(d, n + 4), SSA_FOUR(d, n + 5), \
      SSA_FOUR(d, n + 6), SSA_FOUR(d, n + 7)
#define SSA_NAMES_32                                                                                               \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define SSA_NAMES_64                                                                                            \
  SSA_NAMES_32                                                                                                  \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/// d (64 x 64) = a b, or += a b with `add`, over 16 of the inner dimension; a in registers.
template <bool kTransposedB>
__device__ __forceinline__ void wgmma(float (&d)[8][4], const std::uint32_t (&a)[4], std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" SSA_NAMES_32
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}"
      : SSA_THIRTY_TWO(d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)), "n"(kTransposedB ? 1 : 0));
}

/// d (64 x 128), the same.
template <bool kTransposedB>
__device__ __forceinline__ void wgmma(float (&d)[16][4], const std::uint32_t (&a)[4], std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SSA_NAMES_64
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}"
      : SSA_THIRTY_TWO(d, 0), SSA_THIRTY_TWO(d, 8)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)), "n"(kTransposedB ? 1 : 0));
}

/// d (64 x 64) with a in shared memory, both along the row or both transposed.
template <bool kTransposed = false>
__device__ __forceinline__ void wgmma(float (&d)[8][4], std::uint64_t a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" SSA_NAMES_32 "}, %32, %33, p, 1, 1, %35, %35;\n}"
      : SSA_THIRTY_TWO(d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kTransposed ? 1 : 0));
}

/// d (64 x 128), the same.
template <bool kTransposed>
__device__ __forceinline__ void wgmma(float (&d)[16][4], std::uint64_t a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SSA_NAMES_64 "}, %64, %65, p, 1, 1, %67, %67;\n}"
      : SSA_THIRTY_TWO(d, 0), SSA_THIRTY_TWO(d, 8)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kTransposed ? 1 : 0));
}

/// d (64 x 32) with a in shared memory, both along the row.
__device__ __forceinline__ void wgmma(float (&d)[4][4], std::uint64_t a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" SSA_NAMES_16 "}, %16, %17, p, 1, 1, 0, 0;\n}"
      : SSA_FOUR(d, 0), SSA_FOUR(d, 1), SSA_FOUR(d, 2), SSA_FOUR(d, 3)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

/// d (64 x 16), the same.
__device__ __forceinline__ void wgmma(float (&d)[2][4], std::uint64_t a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {" SSA_NAMES_8 "}, %8, %9, p, 1, 1, 0, 0;\n}"
      : SSA_FOUR(d, 0), SSA_FOUR(d, 1)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

/// d (64 x 128) = a b, or += a b with `add`, over 32 of the inner dimension; a and b e4m3 in shared memory, both along
/// the row. A step of kNextAlongRow is 32 bytes here too.
__device__ __forceinline__ void wgmma_e4m3(float (&d)[16][4], std::uint64_t a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" SSA_NAMES_64 "}, %64, %65, p, 1, 1;\n}"
      : SSA_THIRTY_TWO(d, 0), SSA_THIRTY_TWO(d, 8)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

#undef SSA_FOUR
#undef SSA_THIRTY_TWO
#undef SSA_NAMES_8
#undef SSA_NAMES_16
#undef SSA_NAMES_32
#undef SSA_NAMES_64
#endif

}  // namespace ssa::cuda
