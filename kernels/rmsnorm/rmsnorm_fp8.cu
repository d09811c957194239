// A block of 128 x 128 elements needs its largest magnitude, and a norm needs the sum over a whole token. So a cluster
// of CTAs takes 128 tokens, each CTA 128 columns of them. They stay in registers while the CTAs exchange their sums
// over columns: every element is read once, and written once per output. Two CTAs run on an SM, so that one loads or
// stores while the other waits for sums. The clusters of the backward stay, each takes many blocks of 128 tokens, and
// loads the next block while it rounds and stores the current one.
// The sums are added in an order of their own: against rmsnorm.cu, rstd may differ in its last bit.
#include "rmsnorm_fp8.cuh"

#include <algorithm>

#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/vector.cuh"
#include "kernels/common/ptx/cluster.cuh"
#include "kernels/common/ptx/mma.cuh"
#include "kernels/quantize_fp8/fp8_tile.cuh"
#include "kernels/quantize_fp8/own_rows.cuh"

namespace ssa::cuda {
namespace {

constexpr int kCtasPerSm = 2, kWarps = kFp8TileThreads / kWarpSize;

/// Makes the compiler unpack these elements again where they are used next. Else it would keep what it unpacked for the
/// sums, in twice as many registers.
__device__ __forceinline__ void forget_unpacked(uint4 (&rows)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) asm volatile("" : "+r"(rows[i].x), "+r"(rows[i].y), "+r"(rows[i].z), "+r"(rows[i].w));
}

/// Each lane passes 8 values. Lane l of 16 adjacent lanes gets the sum over these lanes of value l / 2.
__device__ __forceinline__ float sum_of_rows(float (&value)[8], int lane) {
#pragma unroll
  for (int half = 4; half > 0; half /= 2) {
    const bool upper = (lane & 2 * half) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float sent = upper ? value[i] : value[i + half], kept = upper ? value[i + half] : value[i];
      value[i] = kept + __shfl_xor_sync(kFullMask, sent, 2 * half);
    }
  }
  return value[0] + __shfl_xor_sync(kFullMask, value[0], 1);
}

/// Sums over all columns of the cluster's 128 tokens, in shared memory. Two inboxes if add_up is called several times.
template <int kCtas, int kInboxes>
struct TokenSums {
  static constexpr int kPairs = kFp8Tile / 2;  ///< two tokens are sent at a time

  ClusterInbox<kCtas * kPairs> inboxes[kInboxes];  ///< [CTA][token]
  alignas(16) float part[kFp8Tile];                ///< sums over this CTA's columns
  alignas(16) float whole[kFp8Tile];

  /// Called by every thread, first.
  __device__ __forceinline__ void open() {
    if constexpr (kCtas > 1) {
      if constexpr (kInboxes == 2) inboxes[1].init();
      inboxes[0].open();
    }
  }

  /// sum[i] comes in as this thread's part of the sum of its row i (fp8_tile.cuh), and leaves as the whole sum. `turn`
  /// counts the calls. With one CTA a __syncthreads() is needed between two calls.
  __device__ __forceinline__ void add_up(float (&sum)[8], int turn = 0) {
    const int thread = fresh(static_cast<int>(threadIdx.x)), first = thread / 16 * 8;
    const float of_row = sum_of_rows(sum, thread % kWarpSize);
    if (thread % 2 == 0) part[first + thread % 16 / 2] = of_row;
    __syncthreads();
    if constexpr (kCtas > 1) {
      auto& inbox = inboxes[turn % kInboxes];
      if (turn == 0)
        inbox.wait_until_all_are_open();
      else
        inbox.expect();
      const int rank = static_cast<int>(blockIdx.x);
      for (int i = thread; i < kCtas * kPairs; i += kFp8TileThreads)
        inbox.send(i / kPairs, rank * kPairs + i % kPairs, reinterpret_cast<const float2*>(part)[i % kPairs]);
      inbox.wait_for_values(turn / kInboxes);
      if (thread < kFp8Tile) {
        const auto* values = reinterpret_cast<const float*>(inbox.values);
        float total = values[thread];
#pragma unroll
        for (int cta = 1; cta < kCtas; ++cta) total += values[cta * kFp8Tile + thread];
        whole[thread] = total;
      }
      __syncthreads();
    }
    const float* all = kCtas > 1 ? whole : part;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] = all[first + i];
  }
};

template <int kCtas>
struct ForwardShared {
  Fp8TileShared tile;
  TokenSums<kCtas, 1> sums;
};

/// `residual` may alias x: a thread reads its elements before it writes them.
template <int kCtas, bool kTransposed>
__global__ void __launch_bounds__(kFp8TileThreads, kCtasPerSm)
    rmsnorm_forward_cluster_kernel(Fp8Target fp8, Fp8Target fp8_t, __nv_bfloat16* out, float* rstd,
                                   __nv_bfloat16* residual, const __nv_bfloat16* x, const __nv_bfloat16* delta,
                                   const __nv_bfloat16* weight, int M, int H, float inverse_H, float eps) {
  __shared__ alignas(16) ForwardShared<kCtas> shared;
  shared.sums.open();
  const Fp8TilePlace at;
  const bool inside = at.row < M && at.column < H;  // M is a multiple of 16: all eight rows are inside, or none
  const std::int64_t first = std::int64_t{at.row} * H + at.column;
  uint4 tile[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) tile[i] = inside ? *reinterpret_cast<const uint4*>(x + first + i * H) : uint4{};
  if (delta && inside) {
    uint4 added[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) added[i] = __ldg(reinterpret_cast<const uint4*>(delta + first + i * H));
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      Floats<8> value = load<8>(reinterpret_cast<const __nv_bfloat16*>(&tile[i]));
      const Floats<8> d = load<8>(reinterpret_cast<const __nv_bfloat16*>(&added[i]));
#pragma unroll
      for (int j = 0; j < 8; ++j) value[j] += d[j];
      tile[i] = pack_bf16(value);
      *reinterpret_cast<uint4*>(residual + first + i * H) = tile[i];
    }
  }
  float sum[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const Floats<8> value = load<8>(reinterpret_cast<const __nv_bfloat16*>(&tile[i]));
    sum[i] = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) sum[i] += value[j] * value[j];
  }
  shared.sums.add_up(sum);
  if (at.tile_column * kFp8Tile >= H) return;  // a CTA that only completes the cluster

  forget_unpacked(tile);
  const Floats<8> w = load_constant<8>(weight + at.column);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float r = rsqrtf(sum[i] * inverse_H + eps);
    if (at.column == 0 && at.row < M) rstd[at.row + i] = r;
    Floats<8> y = load<8>(reinterpret_cast<const __nv_bfloat16*>(&tile[i]));
#pragma unroll
    for (int j = 0; j < 8; ++j) y[j] = y[j] * r * w[j];
    tile[i] = pack_bf16(y);
    if (out && inside) *reinterpret_cast<uint4*>(out + first + i * H) = tile[i];
  }
  quantize_tile<true, kTransposed>(fp8, fp8_t, shared.tile, tile, at.tile_row, at.tile_column, M, H);
}

/// Starts the copy of this thread's rows, in a cp.async group of its own; zeros where not `inside`.
__device__ __forceinline__ void copy_rows(OwnRows& to, const __nv_bfloat16* from, std::int64_t first, int H,
                                          bool inside) {
  if (inside) from += first;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    cp_async_16(shared_address(&to[i][threadIdx.x]), from, inside);
    if (inside) from += H;
  }
  cp_async_commit_group();
}

template <int kCtas>
struct BackwardShared {
  Fp8SquareTileShared tile;
  TokenSums<kCtas, 2> sums;
  OwnRows x, d_x;
  alignas(16) float d_weight[kWarps][kFp8Tile];
};

/// Cluster y of the grid takes blocks y, y + gridDim.y, ... of 128 tokens. The loads of the next block are issued as
/// soon as registers and shared memory are free for them, and between other work, as warps that issue many at a time
/// wait for the memory pipe: x and d_out row by row while the output is computed, d_x while it is rounded.
/// partials[b]: sum of d_out * n over tokens 128 b .. 128 b + 127.
template <int kCtas>
__global__ void __launch_bounds__(kFp8TileThreads, kCtas == 1 ? 1 : kCtasPerSm)  // with 1, ptxas needs more registers
    rmsnorm_backward_cluster_kernel(Fp8Target fp8, Fp8Target fp8_t, __nv_bfloat16* d_residual, float* partials,
                                    const __nv_bfloat16* d_out, const __nv_bfloat16* residual, const float* rstd,
                                    const __nv_bfloat16* weight, int M, int H, float inverse_H) {
  extern __shared__ uint4 dynamic_shared[];
  auto& shared = *reinterpret_cast<BackwardShared<kCtas>*>(dynamic_shared);
  shared.sums.open();
  const int tile_column = static_cast<int>(blockIdx.x);
  const bool used = tile_column * kFp8Tile < H;  // else the CTA only completes the cluster
  const auto row_of = [&](int tile_row, int thread) { return tile_row * kFp8Tile + thread / 16 * 8; };
  const auto column_of = [&](int thread) { return tile_column * kFp8Tile + thread % 16 * 8; };
  uint4 d_y[8];
  float rstd_of_lane;  // of row lane % 8 of this thread's eight
  const auto load_rstd = [&](int tile_row) {
    const int thread = fresh(static_cast<int>(threadIdx.x)), row = row_of(tile_row, thread);
    rstd_of_lane = used && row < M ? __ldg(rstd + row + thread % 8) : 0.0f;
  };
  const auto copy_d_x = [&](int tile_row) {
    const int thread = fresh(static_cast<int>(threadIdx.x)), row = row_of(tile_row, thread), stride = fresh(H);
    copy_rows(shared.d_x, d_residual, std::int64_t{row} * stride + column_of(thread), stride, used && row < M);
  };
  {
    const int thread = static_cast<int>(threadIdx.x), row = row_of(static_cast<int>(blockIdx.y), thread);
    const bool inside = used && row < M;
    const std::int64_t first = std::int64_t{row} * H + column_of(thread);
    copy_rows(shared.x, residual, first, H, inside);
    copy_d_x(static_cast<int>(blockIdx.y));
#pragma unroll
    for (int i = 0; i < 8; ++i)
      d_y[i] = inside ? __ldg(reinterpret_cast<const uint4*>(d_out + first + std::int64_t{i} * H)) : uint4{};
    load_rstd(static_cast<int>(blockIdx.y));
  }

#pragma unroll 1
  for (int turn = 0, tile_row = static_cast<int>(blockIdx.y);; ++turn) {
    const int thread = fresh(static_cast<int>(threadIdx.x)), warp = thread / kWarpSize, lane = thread % kWarpSize;
    uint4 packed_weight = used ? __ldg(reinterpret_cast<const uint4*>(weight + column_of(thread))) : uint4{};
    // Unpacked twice per turn: it would take twice as many registers in between.
    const auto unpacked_weight = [&] {
      asm volatile("" : "+r"(packed_weight.x), "+r"(packed_weight.y), "+r"(packed_weight.z), "+r"(packed_weight.w));
      return unpack_bf16(packed_weight);
    };
    cp_async_wait_group<1>();
    Floats<8> d_weight{};
    float sum[8];
    {
      const Floats<8> w = unpacked_weight();
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float scale = __shfl_sync(kFullMask, rstd_of_lane, i, 16);
        Floats<8> n = load<8>(reinterpret_cast<const __nv_bfloat16*>(&shared.x[i][thread]));
        Floats<8> g = unpack_bf16(d_y[i]);
        sum[i] = 0;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          n[j] *= scale;
          d_weight[j] += g[j] * n[j];
          g[j] *= w[j];
          sum[i] += g[j] * n[j];
        }
      }
    }
    // The barriers of add_up are between these stores and the loads below, those of quantize_tile between the loads and
    // the stores of the next turn.
#pragma unroll
    for (int j = 0; j < 8; ++j) d_weight[j] += __shfl_xor_sync(kFullMask, d_weight[j], 16);
    if (lane < 16) store<8>(&shared.d_weight[warp][8 * lane], d_weight);
    shared.sums.add_up(sum, turn);
    cp_async_wait_group<0>();

    if (used && thread < kFp8Tile) {
      float total = shared.d_weight[0][thread];
#pragma unroll
      for (int other = 1; other < kWarps; ++other) total += shared.d_weight[other][thread];
      partials[std::int64_t{tile_row} * H + tile_column * kFp8Tile + thread] = total;
    }
    forget_unpacked(d_y);
    const int next = tile_row + static_cast<int>(gridDim.y);
    const bool more = next * kFp8Tile < M;
    uint4 tile[8];
    {
      const Floats<8> w = unpacked_weight();
      const int row = row_of(tile_row, thread), stride = fresh(H);
      __nv_bfloat16* to = d_residual + std::int64_t{row} * stride + column_of(thread);
      const bool inside_next = used && row_of(next, thread) < M;
      const int step = inside_next ? stride : 0;  // no address outside is made
      const std::int64_t first_next = inside_next ? std::int64_t{row_of(next, thread)} * stride + column_of(thread) : 0;
      const __nv_bfloat16 *next_x = residual + first_next, *next_d_y = d_out + first_next;
#pragma unroll
      for (int i = 0; i < 8; ++i, to += stride, next_x += step, next_d_y += step) {
        const float scale = __shfl_sync(kFullMask, rstd_of_lane, i, 16), mean = sum[i] * inverse_H;
        const Floats<8> n = load<8>(reinterpret_cast<const __nv_bfloat16*>(&shared.x[i][thread]));
        const Floats<8> g = unpack_bf16(d_y[i]);
        Floats<8> d = load<8>(reinterpret_cast<const __nv_bfloat16*>(&shared.d_x[i][thread]));
#pragma unroll
        for (int j = 0; j < 8; ++j) d[j] += scale * (g[j] * w[j] - n[j] * scale * mean);
        tile[i] = pack_bf16(d);
        if (used && row < M) *reinterpret_cast<uint4*>(to) = tile[i];
        if (more) cp_async_16(shared_address(&shared.x[i][thread]), next_x, inside_next);
        d_y[i] = inside_next ? __ldg(reinterpret_cast<const uint4*>(next_d_y)) : uint4{};
      }
    }
    if (more) {
      cp_async_commit_group();
      load_rstd(next);
    }
    if (used)
      quantize_tile<true, true, Fp8Sizes::whole, Fp8TileBlocks::row_and_square>(fp8, fp8_t, shared.tile, tile, tile_row,
                                                                                tile_column, M, fresh(H), [&] {
                                                                                  if (more) copy_d_x(next);
                                                                                });
    if (!more) return;
    tile_row = next;
  }
}

constexpr int kMaxCtas = 16;  ///< per cluster; more than 8 are not portable, and some GPUs have no room for them

/// Calls f.operator()<CTAs of a cluster>() for rows of H elements.
template <class F>
auto dispatch_ctas(std::int64_t H, F&& f) {
  const std::int64_t tiles = fp8_blocks_of(H);
  if (tiles == 1) return f.template operator()<1>();
  if (tiles == 2) return f.template operator()<2>();
  if (tiles <= 4) return f.template operator()<4>();
  if (tiles <= 8) return f.template operator()<8>();
  return f.template operator()<kMaxCtas>();
}

LaunchShape shape_of(unsigned clusters, int ctas, std::size_t shared_bytes = 0) {
  return {.grid = {static_cast<unsigned>(ctas), clusters},
          .block = kFp8TileThreads,
          .shared_bytes = shared_bytes,
          .cluster = static_cast<unsigned>(ctas)};
}

/// How many clusters of this kernel run on the GPU at a time. Allows clusters of more than 8 CTAs.
template <class... Parameters>
int resident_clusters(void (*kernel)(Parameters...), int ctas, std::size_t shared_bytes = 0) {
  constexpr auto op = "rmsnorm";
  const auto* function = reinterpret_cast<const void*>(kernel);
  if (!knows_clusters(op, kernel)) return 0;
  check(cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), op);
  check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
        op);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(ctas), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(ctas), 1024, 1};  // more than can be resident
  config.blockDim = kFp8TileThreads;
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &cluster;
  config.numAttrs = 1;
  int clusters = 0;
  check(cudaOccupancyMaxActiveClusters(&clusters, function, &config), op);
  return clusters;
}

template <int kCtas>
int backward_clusters() {
  static const int clusters =
      resident_clusters(rmsnorm_backward_cluster_kernel<kCtas>, kCtas, sizeof(BackwardShared<kCtas>));
  return clusters;
}

template <int kCtas>
bool have_room() {
  static const bool room = resident_clusters(rmsnorm_forward_cluster_kernel<kCtas, false>, kCtas) > 0 &&
                           resident_clusters(rmsnorm_forward_cluster_kernel<kCtas, true>, kCtas) > 0 &&
                           backward_clusters<kCtas>() > 0;
  return room;
}

}  // namespace

bool rmsnorm_has_clusters(Stream& stream, std::int64_t H) {
  const CudaContext& context = stream.cuda();
  if (H % kFp8Block != 0 || H > kMaxCtas * kFp8Block || context.properties.major < 9 || context.force_generic)
    return false;
  return dispatch_ctas(H, [&]<int kCtas>() { return have_room<kCtas>(); });
}

void rmsnorm_forward_in_clusters(Stream& stream, const RmsNormForward& p) {
  const std::int64_t M = p.x.dim(0), H = p.x.dim(1);
  dispatch_ctas(H, [&]<int kCtas>() {
    const auto kernel =
        p.fp8_t ? rmsnorm_forward_cluster_kernel<kCtas, true> : rmsnorm_forward_cluster_kernel<kCtas, false>;
    launch(stream, "rmsnorm_forward", kernel, shape_of(ctas_for(M, kFp8Tile), kCtas), Fp8Target(p.fp8),
           Fp8Target(p.fp8_t), bf16(p.out), p.rstd.as<float>(), bf16(p.residual), bf16(p.x), bf16(p.delta),
           bf16(p.weight), M, H, 1.0f / static_cast<float>(H), p.eps);
  });
}

void rmsnorm_backward_in_clusters(Stream& stream, const RmsNormBackward& p, float* partials) {
  const std::int64_t M = p.d_out.dim(0), H = p.d_out.dim(1);
  dispatch_ctas(H, [&]<int kCtas>() {
    const unsigned clusters = std::min(ctas_for(M, kFp8Tile), static_cast<unsigned>(backward_clusters<kCtas>()));
    launch(stream, "rmsnorm_backward", rmsnorm_backward_cluster_kernel<kCtas>,
           shape_of(clusters, kCtas, sizeof(BackwardShared<kCtas>)), Fp8Target(p.fp8), Fp8Target(p.fp8_t),
           bf16(p.d_residual), partials, bf16(p.d_out), bf16(p.residual), p.rstd.as<float>(), bf16(p.weight), M, H,
           1.0f / static_cast<float>(H));
  });
}

}  // namespace ssa::cuda
