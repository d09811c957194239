// select_blocks for single queries at given positions in one kernel, for GPUs with clusters. The CTAs of a cluster
// share the complete blocks of one query and key/value head; importance stays in shared memory. A block is chosen by
// its rank: the number of blocks with a larger key. First every 32 blocks are ranked, then those of a CTA that remain,
// then those of the cluster. Keys are distinct, so that exactly the wanted number is chosen, also among NaN.
#pragma once

#include <algorithm>

#include "decode_scorer.cuh"
#include "kernels/common/ptx/cluster.cuh"

namespace ssa::cuda {

/// Importance is not negative, so as an integer it has the same order; the lower half of a key lets the lower index win
/// a tie. 0 is no key.
using BlockKey = unsigned long long;
__device__ __forceinline__ BlockKey block_key(float importance, int block) {
  return static_cast<BlockKey>(__float_as_uint(importance)) << 32 | (0xffffffffu - static_cast<unsigned>(block));
}
__device__ __forceinline__ int block_of(BlockKey key) {
  return static_cast<int>(0xffffffffu - static_cast<unsigned>(key));
}

/// The number of larger ones among `count` keys, an even number, in shared memory; every thread reads the same ones.
__device__ __forceinline__ int rank_of(BlockKey key, const BlockKey* keys, int count) {
  int rank = 0;
#pragma unroll 8
  for (int i = 0; i < count; i += 2) {
    const ulonglong2 pair = *reinterpret_cast<const ulonglong2*>(keys + i);
    rank += (pair.x > key) + (pair.y > key);
  }
  return rank;
}

struct SelectClusterConfig {
  static constexpr int kCluster = kMaxCluster, kThreads = 256, kWarps = kThreads / kWarpSize;
  static_assert(kCluster * kMostGroup == kThreads);  // a thread sends a head's softmax to a CTA

  /// Blocks per CTA when `complete` blocks are.
  static __host__ __device__ int share(int complete) {
    return (complete + kCluster * kWarpSize - 1) / (kCluster * kWarpSize) * kWarpSize;
  }
};

/// Dynamic shared memory: this struct, then arrays whose sizes are known at launch.
struct alignas(16) SelectClusterShared {
  ClusterInbox<SelectClusterConfig::kCluster * kMostGroup> softmax;  ///< per CTA and head: maximum, sum
  float2 own_softmax[kMostGroup];                                    ///< of this CTA's blocks
  float2 all[kMostGroup];                                            ///< maximum; reciprocal of the sum
  int remaining;                                                     ///< blocks of this CTA among the first of their 32

  /// The arrays of a CTA with `share` blocks, of which at most `wanted` are chosen. No size is a minimum of three
  /// numbers: of addresses with one, ptxas 13.0.88 makes a VIMNMX3 with a term of the wrong sign.
  struct Arrays {
    BlockKey *keys, *remaining;  ///< [share], [share]
    float* scores;               ///< [G][score_stride]
    BlockKey* gathered;          ///< [kCluster * wanted]
    int* chosen;                 ///< [wanted]
  };
  /// Rows of `scores` that a warp writes at a time are in different banks.
  static __host__ __device__ int score_stride(int share) { return share + 4; }
  __device__ __forceinline__ Arrays arrays(int share, int wanted, int G) {
    Arrays to;
    to.keys = reinterpret_cast<BlockKey*>(this + 1);
    to.remaining = to.keys + share;
    to.scores = reinterpret_cast<float*>(to.remaining + share);
    to.gathered = reinterpret_cast<BlockKey*>(to.scores + G * score_stride(share));
    to.chosen = reinterpret_cast<int*>(to.gathered + SelectClusterConfig::kCluster * wanted);
    return to;
  }
  static std::size_t bytes(const SelectArgs& a) {
    const int share = SelectClusterConfig::share(a.N), wanted = std::min(a.block_counts - 1, a.N), G = a.HQ / a.HK;
    const auto keys = static_cast<std::size_t>(2 * share + SelectClusterConfig::kCluster * wanted);
    return sizeof(SelectClusterShared) + keys * sizeof(BlockKey) + static_cast<std::size_t>(wanted) * sizeof(int) +
           static_cast<std::size_t>(G * score_stride(share)) * sizeof(float);
  }
};

/// Whether one kernel with `shared_bytes` scores and chooses: in reference mode some queries choose from two ranges of
/// blocks.
template <class... Parameters>
bool chooses_in_cluster(Stream& stream, const char* op, const SelectArgs& a, void (*kernel)(Parameters...),
                        std::size_t shared_bytes) {
  const CudaContext& context = stream.cuda();
  return !(a.reference && a.block_counts > a.block_size / 2) && context.properties.major >= 9 &&
         !context.force_generic && shared_bytes <= context.properties.sharedMemPerBlockOptin &&
         knows_clusters(op, kernel);
}

/// Writes to the shared memory of CTA `rank`: visible there after cluster_sync.
__device__ __forceinline__ void store_to_cta(int rank, BlockKey* to, BlockKey key) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  asm volatile("{\n.reg .b32 to;\nmapa.shared::cluster.u32 to, %0, %1;\nst.shared::cluster.u64 [to], %2;\n}" ::"r"(
                   shared_address(to)),
               "r"(rank), "l"(key)
               : "memory");
#else
  __trap();
#endif
}

/// A CTA of the cluster that chooses the blocks of a task.
struct SelectClusterCta {
  int rank, wanted;       ///< in the cluster; blocks to choose besides the own one
  int share, first, end;  ///< its blocks are [first, end), at most `share`
  SelectClusterShared::Arrays arrays;

  __device__ __forceinline__ SelectClusterCta(SelectClusterShared& shared, const SelectArgs& a, const DecodeTask& task,
                                              int cluster_rank)
      : rank(cluster_rank),
        wanted(min(a.block_counts - 1, task.own)),
        share(SelectClusterConfig::share(task.complete)),
        first(rank * share),
        end(min(task.complete, first + share)),
        arrays(shared.arrays(share, wanted, task.G)) {}
};

/// Scores of the CTA's blocks, 16 per warp at a time; the means of two times 16 are in flight together.
template <int kD>
class ClusterScorer {
 public:
  using Means = typename DecodeScorer<kD>::Means[2];

  __device__ __forceinline__ ClusterScorer(const SelectArgs& a, const DecodeTask& task, const SelectClusterCta& cta)
      : scorer_(a, task, static_cast<int>(threadIdx.x) % kWarpSize), cta_(cta) {}

  __device__ __forceinline__ void load_first(Means& means) const { load(means, first_blocks()); }

  __device__ __forceinline__ void score(Means& means, const __nv_bfloat16* q) {
    scorer_.load_queries(q);
    for (int from = first_blocks(); from < cta_.end; from += 2 * kStep) {
      if (from > first_blocks()) load(means, from);
      score_16(means[0], from);
      if (from + kStep < cta_.end) score_16(means[1], from + kStep);
    }
  }

 private:
  static constexpr int kStep = SelectClusterConfig::kWarps * 16;

  __device__ __forceinline__ int first_blocks() const {
    return cta_.first + static_cast<int>(threadIdx.x) / kWarpSize * 16;
  }
  __device__ __forceinline__ void load(Means& means, int from) const {
    scorer_.load(means[0], from, cta_.end);
    scorer_.load(means[1], from + kStep, cta_.end);
  }
  __device__ __forceinline__ void score_16(const typename DecodeScorer<kD>::Means& means, int from) const {
    float* to = cta_.arrays.scores + from - cta_.first;
    const int stride = SelectClusterShared::score_stride(cta_.share);
    scorer_.score(means, [&](int g, int n, float score) { to[g * stride + n] = score; });
  }

  DecodeScorer<kD> scorer_;
  const SelectClusterCta& cta_;
};

/// Chooses the blocks, after the CTA's threads have written the scores of its blocks.
__device__ __forceinline__ void choose_in_cluster(SelectClusterShared& shared, const SelectArgs& a,
                                                  const DecodeTask& task, const SelectClusterCta& cta) {
  using C = SelectClusterConfig;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const auto& [rank, wanted, share, first, end, arrays] = cta;
  const int stride = SelectClusterShared::score_stride(share);
  for (int i = thread; i < share; i += C::kThreads) arrays.keys[i] = arrays.remaining[i] = 0;
  if (thread == 0) shared.remaining = 0;
  __syncthreads();

  // Softmax of each head over the CTA's blocks, then over all blocks.
  for (int g = warp; g < kMostGroup; g += C::kWarps) {
    float top = -kInfinity, sum = 0;
    if (g < task.G) {
      const float* row = arrays.scores + g * stride;
      for (int n = lane; n < end - first; n += kWarpSize) top = fmaxf(top, row[n]);
      top = warp_max(top);
      for (int n = lane; n < end - first; n += kWarpSize) sum += exp2_fast(row[n] - top);
      sum = warp_sum(sum);
    }
    if (lane == 0) shared.own_softmax[g] = {top, sum};
  }
  shared.softmax.wait_until_all_are_open();
  __syncthreads();
  shared.softmax.send(warp, rank * kMostGroup + lane, shared.own_softmax[lane]);
  shared.softmax.wait_for_values();
  if (thread < task.G) {
    float top = -kInfinity, sum = 0;
#pragma unroll
    for (int cta = 0; cta < C::kCluster; ++cta) top = fmaxf(top, shared.softmax.values[cta * kMostGroup + thread].x);
#pragma unroll
    for (int cta = 0; cta < C::kCluster; ++cta) {
      const float2 part = shared.softmax.values[cta * kMostGroup + thread];
      if (part.y > 0) sum += part.y * exp2_fast(part.x - top);
    }
    shared.all[thread] = {top, 1 / sum};
  }
  __syncthreads();

  // Candidates are the blocks before the query's own. A warp has the keys of 32 blocks, and ranks them.
  const int candidates = min(task.own, end) - first;
  for (int base = warp * kWarpSize; base < candidates; base += C::kThreads) {
    const int n = base + lane;
    BlockKey key = 0;
    if (n < candidates) {
      float importance = 0;
#pragma unroll 8
      for (int g = 0; g < task.G; ++g)
        importance += exp2_fast(arrays.scores[g * stride + n] - shared.all[g].x) * shared.all[g].y;
      key = block_key(importance, first + n);
    }
    arrays.keys[n] = key;
    __syncwarp();
    const bool remains = key > 0 && rank_of(key, arrays.keys + base, kWarpSize) < wanted;
    const unsigned lanes = __ballot_sync(kFullMask, remains);
    int to = 0;
    if (lane == 0) to = atomicAdd(&shared.remaining, __popc(lanes));
    to = __shfl_sync(kFullMask, to, 0) + __popc(lanes & ((1u << lane) - 1));
    if (remains) arrays.remaining[to] = key;
  }
  __syncthreads();

  // The CTA's most important blocks go to the first CTA, to places by rank; places that remain get 0.
  const int remaining = shared.remaining;
  for (int i = thread; i < remaining; i += C::kThreads) {
    const BlockKey key = arrays.remaining[i];
    const int place = rank_of(key, arrays.remaining, (remaining + 1) / 2 * 2);
    if (place < wanted) store_to_cta(0, arrays.gathered + rank * wanted + place, key);
  }
  for (int place = remaining + thread; place < wanted; place += C::kThreads)
    store_to_cta(0, arrays.gathered + rank * wanted + place, 0);
  cluster_sync();
  if (rank > 0) return;

  for (int i = thread; i < C::kCluster * wanted; i += C::kThreads) {
    const BlockKey key = arrays.gathered[i];
    const int place = key > 0 ? rank_of(key, arrays.gathered, C::kCluster * wanted) : wanted;
    if (place < wanted) arrays.chosen[place] = block_of(key);
  }
  __syncthreads();
  int* to = a.indices + (task.query * a.HK + task.kv_head) * a.slots;
  for (int i = thread; i < a.slots; i += C::kThreads) {
    if (i >= wanted) {
      to[i] = i == wanted ? task.own : -1;
      continue;
    }
    const int block = arrays.chosen[i];
    int place = 0;
    for (int j = 0; j < wanted; ++j) place += arrays.chosen[j] < block;
    to[place] = block;
  }
}

/// CTA (part of the blocks, kv_head and t, b).
template <int kD>
__global__ void __launch_bounds__(SelectClusterConfig::kThreads)
    select_blocks_cluster_kernel(const SelectArgs a, const std::int32_t* positions) {
  extern __shared__ uint4 dynamic_shared[];
  auto& shared = *reinterpret_cast<SelectClusterShared*>(dynamic_shared);
  shared.softmax.open();
  wait_for_previous_kernel();
  const DecodeTask task(a, positions, static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z));
  const SelectClusterCta cta(shared, a, task, static_cast<int>(blockIdx.x));  // the grid is one cluster wide
  ClusterScorer<kD> scorer(a, task, cta);
  typename ClusterScorer<kD>::Means means;
  scorer.load_first(means);
  scorer.score(means, a.q + task.heads * kD);
  choose_in_cluster(shared, a, task, cta);
}

}  // namespace ssa::cuda
