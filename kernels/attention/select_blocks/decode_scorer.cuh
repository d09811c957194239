// Scores of single queries at given positions against block means.
#pragma once

#include "config.cuh"

namespace ssa::cuda {

inline constexpr int kMostGroup = 32;  ///< query heads per key/value head

/// A query and key/value head, and how many blocks there are for it.
struct DecodeTask {
  int kv_head, t, G;
  std::int64_t b, query, heads;  ///< index of the query; of its first head among all heads of queries
  int own, complete;             ///< its own block, blocks that are complete

  /// head_and_t: kv_head + HK * t.
  __device__ __forceinline__ DecodeTask(const SelectArgs& a, const std::int32_t* positions, int head_and_t, int batch)
      : kv_head(head_and_t % a.HK),
        t(head_and_t / a.HK),
        G(a.HQ / a.HK),
        b(batch),
        query(b * a.T + t),
        heads(query * a.HQ + kv_head * G),
        own(positions[query] >> a.block_shift),
        complete((positions[query] + 1) >> a.block_shift) {}
};

/// Scores of 16 blocks at a time by one warp. In the products (m16n8k16) blocks are rows and query heads columns; lane
/// t of a quad loads 16 adjacent bytes of a row, the operands of two products, in which D is permuted the same way for
/// both.
template <int kD>
class DecodeScorer {
 public:
  static constexpr int kSteps = kD / 32, kColumns = kMostGroup / 8;
  using Means = uint4[kSteps][2];

  __device__ __forceinline__ DecodeScorer(const SelectArgs& a, const DecodeTask& task, int lane)
      : a_(a), task_(task), row_(lane / 4), part_(lane % 4) {}

  /// q: the queries of the group's heads, [G, kD].
  __device__ __forceinline__ void load_queries(const __nv_bfloat16* q) {
#pragma unroll
    for (int column = 0; column < kColumns; ++column)
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const int head = column * 8 + row_;
        q_[column][step] = head < task_.G ? reinterpret_cast<const uint4*>(q + head * kD)[step * 4 + part_] : uint4{};
      }
  }

  /// The means of blocks [first, first + 16), of which those from `end` on are 0.
  __device__ __forceinline__ void load(Means& means, int first, int end) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int n = first + row_ + half * 8;
        const __nv_bfloat16* mean = a_.k_mean + ((task_.b * a_.N + n) * a_.HK + task_.kv_head) * kD;
        means[step][half] = n < end ? reinterpret_cast<const uint4*>(mean)[step * 4 + part_] : uint4{};
      }
  }

  /// Calls store(head of the group, block - first, score in units of log2 e) for each head and block.
  template <class Store>
  __device__ __forceinline__ void score(const Means& means, Store&& store) const {
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      if (column * 8 >= task_.G) break;
      float sums[4] = {};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const uint4 &x = means[step][0], &y = means[step][1], &q = q_[column][step];
        const std::uint32_t left[] = {x.x, y.x, x.y, y.y}, right[] = {x.z, y.z, x.w, y.w};
        mma(sums, left, q.x, q.y);
        mma(sums, right, q.z, q.w);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int g = column * 8 + 2 * part_ + i % 2;
        if (g < task_.G) store(g, row_ + i / 2 * 8, sums[i] * a_.scale * kLog2e);
      }
    }
  }

 private:
  const SelectArgs& a_;
  const DecodeTask& task_;
  const int row_, part_;
  uint4 q_[kColumns][kSteps];
};

}  // namespace ssa::cuda
