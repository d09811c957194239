// Adds up the parts of d_k and d_v that the two kernels leave.
#pragma once

#include "dkv_products.cuh"
#include "inverse_index.cuh"

namespace ssa::cuda {

/// CTA `heads` n + head: adds the parts of block n in order; 0 if no token selected it. The first blocks have the most
/// parts, so the CTAs of all heads begin with them.
template <int kD>
__global__ void __launch_bounds__(kSumPartsThreads, 2)
    sparse_dkv_sum_kernel(const SparseKeyGradients out, const InverseIndex index, int heads, int T, int HK,
                          int block_size) {
  const int block = static_cast<int>(blockIdx.x) / heads;
  const std::int64_t local_head = static_cast<int>(blockIdx.x) % heads, b = (out.first_head + local_head) / HK;
  const int kv_head = static_cast<int>((out.first_head + local_head) % HK);
  const BlockParts from = index.parts[local_head * index.N + block];
  if (from.segments == 1 && from.dense == 0) return;  // the team that had it wrote the gradients
  const std::int64_t part_stride = static_cast<std::int64_t>(2) * block_size * kD;
  const float* segment_parts = out.partials + from.first_segment * part_stride;
  const float* dense_parts = out.dense_partials + from.first_dense * part_stride;
  const int vectors = 2 * block_size * kD / 4, segments = from.segments, parts = segments + from.dense;
  for (int i = static_cast<int>(threadIdx.x); i < vectors; i += kSumPartsThreads) {
    const int which = i / (vectors / 2), r = i % (vectors / 2) / (kD / 4), c = i % (kD / 4) * 4;
    const int u = block * block_size + r;
    if (u >= T) continue;
    float4 sum = {0, 0, 0, 0};
    for (int part = 0; part < parts; part += kSumPartsLoads) {
      float4 values[kSumPartsLoads];
#pragma unroll
      for (int j = 0; j < kSumPartsLoads; ++j) {  // all in flight, also where fewer are left
        const int at = part + j;
        const float* values_of =
            at < segments ? segment_parts + at * part_stride : dense_parts + (at - segments) * part_stride;
        values[j] = at < parts ? *reinterpret_cast<const float4*>(values_of + i * 4) : float4{0, 0, 0, 0};
      }
#pragma unroll
      for (int j = 0; j < kSumPartsLoads; ++j) sum = sum + values[j];
    }
    auto* to = reinterpret_cast<float4*>((which ? out.d_v : out.d_k) + ((b * T + u) * HK + kv_head) * kD + c);
    store_or_add(to, sum, out.accumulate);
  }
}

}  // namespace ssa::cuda
