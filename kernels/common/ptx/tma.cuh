// Hopper's TMA, whose copies complete on the barriers of mbarrier.cuh, and other PTX for kernels with a producer
// warpgroup. Kernels that use this file compile for sm_90a only, as with wgmma.cuh.
//
// A barrier's phases alternate in parity. A ring of stages has two barriers per stage: `full` completes when the copies
// into the stage have landed, `empty` when its readers have released it. PipelineState walks over such a ring.
#pragma once

#include <cuda.h>

#include <array>
#include <string>
#include <type_traits>

#include "kernels/common/device/launch.cuh"
#include "mbarrier.cuh"
#include "mma.cuh"
#include "wgmma.cuh"

namespace ssa::cuda {

inline constexpr int kBoxRows = 64;  ///< tokens of one copy: 64 rows of 64 columns, 8 KB

/// Sizes and boxes from the innermost dimension on, strides in bytes from the second. 128-byte swizzle; elements beyond
/// the ends read as 0 and are not written.
template <std::size_t kRank>
CUtensorMap encode_tensor_map(const char* op, CUtensorMapDataType type, const void* data,
                              const std::array<cuuint64_t, kRank>& sizes,
                              const std::array<cuuint64_t, kRank - 1>& strides,
                              const std::array<cuuint32_t, kRank>& box) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
          "cuTensorMapEncodeTiled");
#else
    check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found),
          "cuTensorMapEncodeTiled");
#endif
    SSA_CHECK(found == cudaDriverEntryPointSuccess, "CUDA: the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  std::array<cuuint32_t, kRank> steps;
  steps.fill(1);
  CUtensorMap map;
  const CUresult result = encode(&map, type, kRank, const_cast<void*>(data), sizes.data(), strides.data(), box.data(),
                                 steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    std::string shape;
    for (std::size_t i = kRank; i-- > 0;) shape += (shape.empty() ? "" : ", ") + std::to_string(sizes[i]);
    fail(op, ": cuTensorMapEncodeTiled refuses [", shape, "], CUresult ", static_cast<int>(result));
  }
  return map;
}

/// Describes a tensor [rows, tokens, heads, 128 bytes] to TMA, in boxes of box_rows tokens of one head: 64 columns of
/// bf16 or 32 of float. A wider head counts as several.
template <class T>
CUtensorMap tensor_map(const char* op, const T* data, std::int64_t rows, std::int64_t tokens, std::int64_t heads,
                       int box_rows = kBoxRows) {
  static_assert(std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, float>);
  constexpr cuuint64_t kHeadBytes = 128, kColumns = kHeadBytes / sizeof(T);
  constexpr auto kType = std::is_same_v<T, float> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const auto size = [](std::int64_t n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t token_bytes = kHeadBytes * size(heads);
  return encode_tensor_map<4>(op, kType, data, {kColumns, size(heads), size(tokens), size(rows)},
                              {kHeadBytes, token_bytes, token_bytes * size(tokens)},
                              {kColumns, 1, static_cast<cuuint32_t>(box_rows), 1});
}

/// Describes bf16 [rows, tokens, heads, head_dim] in boxes of box_rows rows of 64 columns: box_heads adjacent heads of
/// box_rows / box_heads tokens, heads innermost. Coordinates: half of the head (64 columns), head, token, row.
inline CUtensorMap tensor_map_heads(const char* op, const __nv_bfloat16* data, std::int64_t rows, std::int64_t tokens,
                                    std::int64_t heads, std::int64_t head_dim, int box_heads, int box_rows = kBoxRows) {
  const auto size = [](std::int64_t n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t head_bytes = size(head_dim) * sizeof(__nv_bfloat16), token_bytes = head_bytes * size(heads);
  return encode_tensor_map<5>(
      op, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, data, {64, size(head_dim / 64), size(heads), size(tokens), size(rows)},
      {128, head_bytes, token_bytes, token_bytes * size(tokens)},
      {64, 1, static_cast<cuuint32_t>(box_heads), static_cast<cuuint32_t>(box_rows / box_heads), 1});
}

#if SSA_WGMMA_CODE
/// A place in a ring of kStages. Readers wait for full[stage()] with parity(), the writer for empty[stage()] with its
/// opposite.
template <int kStages>
struct PipelineState {
  static_assert((kStages & (kStages - 1)) == 0);
  std::uint32_t passed = 0;  ///< stages passed since the start

  __device__ __forceinline__ int stage() const { return static_cast<int>(passed % kStages); }
  __device__ __forceinline__ std::uint32_t parity() const { return passed / kStages & 1; }
  __device__ __forceinline__ void advance() { ++passed; }
  static __device__ __forceinline__ PipelineState at(int passed) { return {static_cast<std::uint32_t>(passed)}; }
  __device__ __forceinline__ PipelineState previous() const { return {passed - 1}; }
};

/// Copies box (head, tokens from t on, sequence `row`) to shared memory.
__device__ __forceinline__ void tma_load(void* to, const CUtensorMap& map, int head, int t, int row, Barrier& full) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(shared_address(to)),
      "l"(&map), "r"(0), "r"(head), "r"(t), "r"(row), "r"(full.address())
      : "memory");
}

/// The same of a tensor_map_heads.
__device__ __forceinline__ void tma_load(void* to, const CUtensorMap& map, int half, int head, int t, int row,
                                         Barrier& full) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, "
      "%6}], [%7];" ::"r"(shared_address(to)),
      "l"(&map), "r"(0), "r"(half), "r"(head), "r"(t), "r"(row), "r"(full.address())
      : "memory");
}

/// The same of a matrix.
__device__ __forceinline__ void tma_load(void* to, const CUtensorMap& map, int column, int row, Barrier& full) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
          "r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(full.address())
      : "memory");
}

/// The same, to this place in the shared memory of every CTA of the cluster that has a bit in `ctas`. It completes on
/// the barrier `full` of each.
__device__ __forceinline__ void tma_load_multicast(void* to, const CUtensorMap& map, int column, int row, Barrier& full,
                                                   unsigned ctas) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, "
      "{%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(full.address()), "h"(static_cast<std::uint16_t>(ctas))
      : "memory");
}

/// Copies contiguous bytes, a multiple of 16.
__device__ __forceinline__ void bulk_load(void* to, const void* from, int bytes, Barrier& full) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(full.address())
               : "memory");
}

/// Starts the copy of a box from shared memory, as one group. The shared memory may be written again after
/// tma_store_wait_read() of the same thread.
__device__ __forceinline__ void tma_store(const CUtensorMap& map, const void* from, int head, int t, int row) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4}], [%5];\n"
      "cp.async.bulk.commit_group;" ::"l"(&map),
      "r"(0), "r"(head), "r"(t), "r"(row), "r"(shared_address(from))
      : "memory");
}
/// The same of a tensor_map_heads.
__device__ __forceinline__ void tma_store(const CUtensorMap& map, const void* from, int half, int head, int t,
                                          int row) {
  asm volatile(
      "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4, %5}], [%6];\n"
      "cp.async.bulk.commit_group;" ::"l"(&map),
      "r"(0), "r"(half), "r"(head), "r"(t), "r"(row), "r"(shared_address(from))
      : "memory");
}
/// The same of a matrix.
__device__ __forceinline__ void tma_store(const CUtensorMap& map, const void* from, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];\n"
      "cp.async.bulk.commit_group;" ::"l"(&map),
      "r"(column), "r"(row), "r"(shared_address(from))
      : "memory");
}
/// The same, but adds to the destination: in L2, atomically per element.
__device__ __forceinline__ void tma_reduce_add(const CUtensorMap& map, const void* from, int head, int t, int row) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.tile.bulk_group [%0, {%1, %2, %3, %4}], [%5];\n"
      "cp.async.bulk.commit_group;" ::"l"(&map),
      "r"(0), "r"(head), "r"(t), "r"(row), "r"(shared_address(from))
      : "memory");
}
__device__ __forceinline__ void tma_store_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
/// Waits until all groups but the last kPending are complete in global memory.
template <int kPending>
__device__ __forceinline__ void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}
/// Orders TMA copies and ordinary accesses of this thread, to global and shared memory.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async;" ::: "memory"); }

/// Prefetches the descriptor before its first use.
__device__ __forceinline__ void prefetch_tensormap(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// ---- warpgroups with different roles ----

/// Changes the registers of each thread of the warpgroup. Each role is one branch of a single if at the kernel's top.
template <int kRegisters>
__device__ __forceinline__ void warpgroup_reg_dealloc() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void warpgroup_reg_alloc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Named barriers; 0 belongs to __syncthreads. `threads` counts the threads that sync and the threads that only arrive.
__device__ __forceinline__ void barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// A value that is the same in all lanes of the warp, in a form that tells the compiler so.
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(kFullMask, value, 0); }

/// Re-reads threadIdx.x behind an optimization barrier, so that values derived from it are not kept live in registers.
__device__ __forceinline__ int fresh_thread() {
  int thread = static_cast<int>(threadIdx.x);
  asm volatile("" : "+r"(thread));
  return thread;
}

/// Compiler fence on these registers: no access to them may be moved across it.
template <int kTiles>
__device__ __forceinline__ void warpgroup_fence_operand(float (&values)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
    asm volatile("" : "+f"(values[n][0]), "+f"(values[n][1]), "+f"(values[n][2]), "+f"(values[n][3])::"memory");
}

/// Ends the lifetime of the values in these registers without an instruction. Accumulators are inputs of products even
/// where the products overwrite them, and the old values would occupy registers until then.
template <int kTiles>
__device__ __forceinline__ void discard(float (&values)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
    asm volatile("" : "=f"(values[n][0]), "=f"(values[n][1]), "=f"(values[n][2]), "=f"(values[n][3]));
}

/// 16 x 16 of bf16 in the layout of pack_a to rows row0 .. +16, columns 16 m .. +16 of a tile.
template <class TileType>
__device__ __forceinline__ void stmatrix_16x16(TileType& tile, int row0, int m, const std::uint32_t (&a)[4], int lane) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   tile.address(row0 + (lane & 15), 2 * m + (lane >> 4))),
               "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])
               : "memory");
}

#endif

}  // namespace ssa::cuda
