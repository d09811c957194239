// The kernel of select_blocks_cluster.cuh, whose CTAs first rotate the queries of their group in shared memory. One CTA
// of a cluster writes them to global memory, one writes the gates, and the one with the newest complete block appends
// key and value, since it reads the mean of that block. Clusters after those of the heads only start loads for later
// kernels.
#include "append_select.h"

#include "append_qkv.cuh"
#include "kernels/attention/dispatch.cuh"
#include "kernels/attention/select_blocks/select_blocks_cluster.cuh"

namespace ssa::cuda {
namespace {

constexpr auto op = "append_select";
constexpr int kPrefetchClusters = 16;  ///< over all sequences

/// Dynamic shared memory; the arrays of `select` follow.
template <int kD>
struct AppendSelectShared {
  alignas(sizeof(uint4)) __nv_bfloat16 q[kMostGroup * kD];  ///< [G, kD]
  SelectClusterShared select;

  static std::size_t bytes(const SelectArgs& a) { return sizeof(q) + SelectClusterShared::bytes(a); }
};

/// What the CTA does of append_qkv: q to shared memory, and its part of what goes to global memory.
template <int kD>
__device__ __forceinline__ void append(const AppendArgs& p, const DecodeTask& task, __nv_bfloat16* q, int rank,
                                       bool appends) {
  constexpr int kHalf = kD / 2, kThreads = SelectClusterConfig::kThreads;
  const int thread = static_cast<int>(threadIdx.x), position = p.positions[task.query];
  const __nv_bfloat16* row = p.qkvg + task.query * p.width();
  for (int item = thread; item < task.G * kHalf; item += kThreads) {
    const int head = item / kHalf, d = item % kHalf;
    const ElementPair x = load_pair(row + (task.kv_head * task.G + head) * kD + d, kHalf);
    const ElementPair rotated = rotate(x, p.angle(position, d));
    store_pair(q + head * kD + d, kHalf, rotated);
    if (rank == 0) store_pair(p.q + (task.heads + head) * kD + d, kHalf, rotated);
  }
  if (rank == 1 && thread < kGates * task.G) {
    const int gate = task.kv_head * kGates * task.G + thread;
    p.gates[task.query * kGates * p.HQ + gate] = sigmoid(__bfloat162float(row[(p.HQ + 2 * p.HK) * kD + gate]));
  }
  if (appends && thread < 2 * kHalf) {
    const bool is_k = thread < kHalf;
    const int d = thread % kHalf;
    const ElementPair x = load_pair(row + (p.HQ + (is_k ? 0 : p.HK) + task.kv_head) * kD + d, kHalf);
    p.append(is_k ? p.k_cache : p.v_cache, is_k ? p.k_mean : p.v_mean, task.b, position, task.kv_head * kD + d,
             is_k ? rotate(x, p.angle(position, d)) : x);
  }
}

/// CTA (part of the blocks, kv_head or cluster that starts loads, sequence).
template <int kD>
__global__ void __launch_bounds__(SelectClusterConfig::kThreads)
    append_select_kernel(const __grid_constant__ AppendArgs p, const SelectArgs a) {
  static_assert(2 * kD / 2 <= SelectClusterConfig::kThreads && kGates * kMostGroup <= SelectClusterConfig::kThreads);
  extern __shared__ uint4 dynamic_shared[];
  const int rank = static_cast<int>(blockIdx.x), y = static_cast<int>(blockIdx.y), b = static_cast<int>(blockIdx.z);
  if (y >= a.HK) {
    wait_for_previous_kernel();
    const int clusters = static_cast<int>(gridDim.y) - a.HK, lane = static_cast<int>(threadIdx.x);
    const int cta = (b * clusters + y - a.HK) * SelectClusterConfig::kCluster + rank;
    if (lane < kWarpSize)
      p.prefetch.start(cta * kWarpSize + lane, a.B * clusters * SelectClusterConfig::kCluster * kWarpSize);
    return;
  }
  auto& shared = *reinterpret_cast<AppendSelectShared<kD>*>(dynamic_shared);
  shared.select.softmax.open();
  wait_for_previous_kernel();
  const DecodeTask task(a, p.positions, y, b);
  const SelectClusterCta cta(shared.select, a, task, rank);
  const bool appends = rank == (task.complete > 0 ? (task.complete - 1) / cta.share : 0);
  const bool reads_appended = appends && task.complete > task.own;  // the token ends a block
  ClusterScorer<kD> scorer(a, task, cta);
  typename ClusterScorer<kD>::Means means;
  if (!reads_appended) scorer.load_first(means);
  append<kD>(p, task, shared.q, rank, appends);
  __syncthreads();
  if (reads_appended) scorer.load_first(means);
  scorer.score(means, shared.q);
  choose_in_cluster(shared.select, a, task, cta);
}

}  // namespace

std::size_t scratch_bytes(const AppendSelect& p) { return scratch_bytes(p.select()); }

void append_select(Stream& stream, const AppendSelect& p) {
  const SelectArgs a = select_args(p.select());
  dispatch_head_dim(op, p.append.q.dim(3), a.HQ / a.HK, a.block_size, [&]<int kD>() {
    const std::size_t shared_bytes = AppendSelectShared<kD>::bytes(a);
    if (a.T != 1 || !chooses_in_cluster(stream, op, a, append_select_kernel<kD>, shared_bytes)) {
      cuda::append_qkv(stream, p.append);
      cuda::select_blocks(stream, p.select());
      return;
    }
    const AppendArgs args(p.append);
    const int others = args.prefetch.is_empty() ? 0 : std::max(1, kPrefetchClusters / a.B);
    launch(
        stream, op, append_select_kernel<kD>,
        {.grid = dim3(SelectClusterConfig::kCluster, static_cast<unsigned>(a.HK + others), static_cast<unsigned>(a.B)),
         .block = SelectClusterConfig::kThreads,
         .shared_bytes = shared_bytes,
         .cluster = SelectClusterConfig::kCluster,
         .waits = true},
        args, a);
  });
}

}  // namespace ssa::cuda
