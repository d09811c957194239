// One kernel computes the entropy of each (token, head) from all keys, one the selected mass from the selected keys. A
// third adds the values of each head in f64, in a fixed order.
#include "attention_stats.h"

#include "kernels/attention/dispatch.cuh"
#include "kernels/attention/sparse/key_stream.cuh"
#include "kernels/common/device/launch.cuh"
#include "ssa/runtime/arena.h"

namespace ssa::cuda {
namespace {

struct StatsArgs {
  float *mass, *entropy;  ///< [B, T, HQ]
  const __nv_bfloat16 *q, *k;
  const float* lse;
  const int* begin;  ///< [B, T]: DocumentBounds::begin; null without documents
  int T, HQ, HK;
  float scale;
};

template <int kD_>
struct EntropyConfig {
  static constexpr int kD = kD_, kWarps = 4, kThreads = kWarps * kWarpSize;
  static constexpr int kQueries = 16 * kWarps, kKeys = 64, kStages = 2;
  struct Shared {
    Tile<kQueries, kD> q;
    Tile<kKeys, kD> k[kStages];
  };
};

/// CTA (head, query tile counted from the end, sequence).
template <class C>
__global__ void __launch_bounds__(C::kThreads, 2) attention_entropy_kernel(const StatsArgs a) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  constexpr int kD = C::kD;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (a.HQ / a.HK);
  const int t0 = static_cast<int>(gridDim.y - 1 - blockIdx.y) * C::kQueries;
  const std::int64_t b = blockIdx.z, q_stride = static_cast<std::int64_t>(a.HQ) * kD;
  const std::int64_t k_stride = static_cast<std::int64_t>(a.HK) * kD;
  const __nv_bfloat16* k = a.k + b * a.T * k_stride + kv_head * kD;
  const auto load_keys = [&](int tile, int stage) {
    load_rows<C::kThreads>(shared.k[stage], k + static_cast<std::int64_t>(tile) * C::kKeys * k_stride, k_stride,
                           a.T - tile * C::kKeys, thread);
  };
  const auto first_key = [&](int t) { return a.begin ? __ldg(a.begin + b * a.T + min(t, a.T - 1)) : 0; };
  const int tile_begin = first_key(t0) / C::kKeys;
  load_rows<C::kThreads>(shared.q, a.q + ((b * a.T + t0) * a.HQ + head) * kD, q_stride, a.T - t0, thread);
  load_keys(tile_begin, tile_begin & 1);
  cp_async_commit_group();

  const int t[2] = {t0 + warp * 16 + (lane >> 2), t0 + warp * 16 + (lane >> 2) + 8};
  const int begin[2] = {first_key(t[0]), first_key(t[1])};
  float lse[2] = {}, entropy[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half)
    if (t[half] < a.T) lse[half] = a.lse[(b * a.T + t[half]) * a.HQ + head];
  const int tiles = (min(a.T, t0 + C::kQueries) - 1) / C::kKeys + 1;
  for (int tile = tile_begin; tile < tiles; ++tile) {
    const int stage = tile & 1;
    cp_async_wait_group<0>();
    __syncthreads();
    if (tile + 1 < tiles) load_keys(tile + 1, stage ^ 1);
    cp_async_commit_group();
    float scores[C::kKeys / 8][4] = {};
#pragma unroll
    for (int kk = 0; kk < kD / 16; ++kk) {
      std::uint32_t q[4];
      load_a(q, shared.q, warp * 16, kk, lane);
#pragma unroll
      for (int n = 0; n < C::kKeys / 16; ++n) {
        std::uint32_t keys[4];
        load_b(keys, shared.k[stage], n * 16, kk, lane);
        mma(scores[2 * n], q, keys[0], keys[1]);
        mma(scores[2 * n + 1], q, keys[2], keys[3]);
      }
    }
#pragma unroll
    for (int n = 0; n < C::kKeys / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int u = tile * C::kKeys + n * 8 + (lane & 3) * 2 + (e & 1);
        const float minus_log_p = lse[e / 2] - scores[n][e] * a.scale;
        if (begin[e / 2] <= u && u <= t[e / 2]) entropy[e / 2] += exp2_fast(-minus_log_p * kLog2e) * minus_log_p;
      }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = quad_sum(entropy[half]);
    if ((lane & 3) == 0 && t[half] < a.T) a.entropy[(b * a.T + t[half]) * a.HQ + head] = total;
  }
}

/// A warp takes one token and up to 16 heads of a group; the last two warps load keys.
template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    selected_mass_kernel(float* all_mass, const float* all_lse, const __grid_constant__ SparseArgs a,
                         const __grid_constant__ TokenTiles tiles) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::KeyShared*>(shared_bytes);
  constexpr int kD = C::kD;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  init_key_stream<C>(shared);
  if (warp >= C::kTokenWarps) {
    load_key_stream<C>(shared, a, {}, tiles);
    return;
  }
  KeyStream<C> keys(shared, tiles, warp, lane);
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles.count(); tile += static_cast<int>(gridDim.x)) {
    const TokenTask task = tiles.task<C>(tile, warp, a);
    const std::int64_t position = task.position(a);
    std::uint32_t q[kD / 16][4];
    load_a_rows<kD>(q, a.q + position * kD, kD, task.rows, lane);
    float lse[2] = {}, mass[2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if ((lane >> 2) + half * 8 < task.rows) lse[half] = all_lse[position + (lane >> 2) + half * 8];
    StageWord word;
    do {
      word = keys.wait(task.t, 1);
#pragma unroll 1
      for (unsigned units = word.units(); units; units &= units - 1) {
        const int unit = __ffs(static_cast<int>(units)) - 1, limit = word.is_cut(unit) ? word.limit() : kUnit - 1;
        float scores[2][4] = {};
        multiply_unit<kD>(scores, q, keys.k(unit), lane);
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (n * 8 + (lane & 3) * 2 + (e & 1) <= limit)
              mass[e / 2] += exp2_fast((scores[n][e] * a.scale - lse[e / 2]) * kLog2e);
      }
      keys.release();
    } while (!word.last());
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int h = (lane >> 2) + half * 8;
      const float total = quad_sum(mass[half]);
      if ((lane & 3) == 0 && h < task.rows) all_mass[position + h] = total;
    }
  }
}

constexpr int kSumThreads = 256;

/// CTA (head, statistic): adds the selected mass (0) or the entropy (1) of all tokens.
__global__ void __launch_bounds__(kSumThreads)
    sum_stats_kernel(double* selected_mass, double* entropy, const StatsArgs a, std::int64_t tokens) {
  __shared__ double shared[kSumThreads / kWarpSize];
  const float* from = (blockIdx.y ? a.entropy : a.mass) + blockIdx.x;
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < tokens; i += kSumThreads) sum += static_cast<double>(from[i * a.HQ]);
  sum = block_sum<kSumThreads>(sum, shared);
  if (threadIdx.x == 0) (blockIdx.y ? entropy : selected_mass)[blockIdx.x] += sum;
}

struct StatsScratch {
  Tensor mass, entropy;
  StatsScratch(Arena& arena, std::int64_t B, std::int64_t T, std::int64_t HQ)
      : mass(arena.allocate("mass", DType::f32, {B, T, HQ})),
        entropy(arena.allocate("entropy", DType::f32, {B, T, HQ})) {}
};

}  // namespace

std::size_t scratch_bytes(const AttentionStats& p) {
  Arena measure;
  StatsScratch(measure, p.q.dim(0), p.q.dim(1), p.q.dim(2));
  return measure.used();
}

void attention_stats(Stream& stream, const AttentionStats& p) {
  constexpr auto op = "attention_stats";
  const std::int64_t B = p.q.dim(0), T = p.q.dim(1), HQ = p.q.dim(2), HK = p.k.dim(2);
  const std::size_t bytes = scratch_bytes(p);
  Arena arena(stream.scratch(bytes), bytes);
  const StatsScratch scratch(arena, B, T, HQ);
  const StatsArgs a = {.mass = scratch.mass.as<float>(),
                       .entropy = scratch.entropy.as<float>(),
                       .q = bf16(p.q),
                       .k = bf16(p.k),
                       .lse = p.lse.as<float>(),
                       .begin = p.documents.begin.as_or_null<std::int32_t>(),
                       .T = static_cast<int>(T),
                       .HQ = static_cast<int>(HQ),
                       .HK = static_cast<int>(HK),
                       .scale = p.scale};
  dispatch_head_dim(op, p.q.dim(3), HQ / HK, p.block_size, [&]<int kD>() {
    using E = EntropyConfig<kD>;
    launch(stream, op, attention_entropy_kernel<E>,
           {.grid = dim3(static_cast<unsigned>(HQ), ctas_for(T, E::kQueries), static_cast<unsigned>(B)),
            .block = E::kThreads,
            .shared_bytes = sizeof(typename E::Shared)},
           a);
    using C = TokenConfig<kD, false, false, false>;
    const SparseArgs selected = {.q = a.q,
                                 .k = a.k,
                                 .v = nullptr,
                                 .indices = p.indices.as<std::int32_t>(),
                                 .B = static_cast<int>(B),
                                 .T = a.T,
                                 .HQ = a.HQ,
                                 .HK = a.HK,
                                 .slots = static_cast<int>(p.indices.dim(3)),
                                 .block_size = static_cast<int>(p.block_size),
                                 .scale = p.scale};
    const TokenTiles tiles = TokenTiles::make<C>(op, selected);
    launch(stream, op, selected_mass_kernel<C>, key_stream_launch<C>(stream, tiles, sizeof(typename C::KeyShared)),
           a.mass, a.lse, selected, tiles);
  });
  launch(stream, op, sum_stats_kernel, {.grid = dim3(static_cast<unsigned>(HQ), 2), .block = kSumThreads},
         p.selected_mass.as<double>(), p.entropy.as<double>(), a, B * T);
}

}  // namespace ssa::cuda
