// Rows of 16-byte pieces that cp.async brings to shared memory for tiles as fp8_tile.cuh divides them: thread (group g
// of 16, lane l of 16) has rows 8 g .. 8 g + 7 and columns 8 l .. 8 l + 7. A thread reads only what it has copied
// itself, so that it waits for its own copies and needs no barrier, and it may copy the next tile into the place of one
// that it has read.
#pragma once

#include "kernels/common/ptx/mma.cuh"
#include "kernels/quantize_fp8/fp8_tile.cuh"

namespace ssa::cuda {

/// [i][thread]: row i of every thread's eight. A thread reads and overwrites only its own elements.
using OwnRows = uint4[8][kFp8TileThreads];

/// Where this thread's eight rows of a tile come from. `rows` is a multiple of 16, so that all eight are inside the
/// matrix, or none. Nothing is copied for a tile that does not exist.
struct OwnSource {
  const __nv_bfloat16* from;
  int stride;
  bool exists, inside;

  __device__ __forceinline__ OwnSource(const __nv_bfloat16* matrix, int row_elements, int tile_row, int tile_column,
                                       int rows, bool tile_exists)
      : from(matrix), stride(0), exists(tile_exists) {
    const int thread = fresh(static_cast<int>(threadIdx.x)), row = fresh(tile_row) * kFp8Tile + thread / 16 * 8;
    inside = exists && row < rows;
    if (!inside) return;
    from += std::int64_t{row} * row_elements + (fresh(tile_column) * kFp8Tile + thread % 16 * 8);
    stride = row_elements;
  }

  /// Starts the copy of the current row to this thread's place, zeros outside the matrix, and moves on.
  __device__ __forceinline__ void copy_next(uint4& to) {
    if (exists) cp_async_16(shared_address(&to), from, inside);
    from += stride;
  }
};

}  // namespace ssa::cuda
