// Forward: a gather of rows. Backward, without float atomics, which are slower than plain stores and whose order
// varies:
// 1. Sort the positions by (id, position): each CTA sorts a tile, then every position finds its rank by a binary search
//    in each tile. That takes M * tiles * log(tile) steps, few at any M of a training step. CUB's radix sort would be
//    shorter, but the size of its scratch has to be queried on a device, and memory is planned without one.
// 2. Add up the rows of d_out in chunks of kChunk sorted positions. The sum of an id whose positions are in one chunk
//    is added to d_weight; an id in several chunks leaves a partial sum in each.
// 3. Add up the partial sums of each shared id, in chunk order.
#include "embedding.h"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/vector.cuh"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 256;

constexpr int kGathered = 4;  ///< rows that a CTA of the forward copies, in flight together

/// Past the end a thread copies the last row again: a branch would separate the loads.
template <int kVec>
__global__ void __launch_bounds__(kThreads, 4)
    embedding_forward_kernel(__nv_bfloat16* out, const std::int32_t* ids, const __nv_bfloat16* weight, std::int64_t M,
                             int H) {
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kGathered;
  std::int64_t from[kGathered], to[kGathered];
#pragma unroll
  for (int r = 0; r < kGathered; ++r) {
    to[r] = min(begin + r, M - 1);
    from[r] = __ldg(ids + to[r]);
  }
  for (int h = static_cast<int>(threadIdx.x) * kVec; h < H; h += kThreads * kVec) {
    Floats<kVec> rows[kGathered];
#pragma unroll
    for (int r = 0; r < kGathered; ++r) rows[r] = load_constant<kVec>(weight + from[r] * H + h);
#pragma unroll
    for (int r = 0; r < kGathered; ++r) store<kVec>(out + to[r] * H + h, rows[r]);
  }
}

/// id << 32 | position: keys are distinct and sort by id, then by position.
using Key = std::uint64_t;
__device__ __forceinline__ Key key_of(std::int32_t id, int position) {
  return static_cast<Key>(static_cast<std::uint32_t>(id)) << 32 | static_cast<std::uint32_t>(position);
}
__device__ __forceinline__ std::int32_t id_of(Key key) { return static_cast<std::int32_t>(key >> 32); }
__device__ __forceinline__ int position_of(Key key) { return static_cast<int>(key & 0xffffffffu); }

constexpr int kTile = 2048;  ///< positions that a CTA sorts, two per thread

/// Writes the keys of each tile of positions in sorted order: a bitonic sort (Batcher 1968).
__global__ void __launch_bounds__(kTile / 2) sort_tiles_kernel(Key* keys, const std::int32_t* ids, int M) {
  __shared__ Key tile[kTile];
  const int begin = static_cast<int>(blockIdx.x) * kTile, thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kTile; i += kTile / 2)
    tile[i] = begin + i < M ? key_of(ids[begin + i], begin + i) : ~Key{0};  // sorts last
  __syncthreads();
  for (int run = 2; run <= kTile; run *= 2)
    for (int distance = run / 2; distance > 0; distance /= 2) {
      const int low = 2 * thread - (thread & (distance - 1)), high = low + distance;
      const Key a = tile[low], b = tile[high];
      const bool ascending = (low & run) == 0;
      if ((a > b) == ascending) tile[low] = b, tile[high] = a;
      // Up to distance 32 a warp exchanges only its own 64 keys. After distance 1 comes distance `run`.
      if (distance > kWarpSize || (distance == 1 && run > kWarpSize))
        __syncthreads();
      else
        __syncwarp();
    }
  for (int i = thread; i < kTile; i += kTile / 2)
    if (begin + i < M) keys[begin + i] = tile[i];
}

constexpr int kSearched = 8;  ///< tiles that a thread searches at a time

/// sorted = the keys of all tiles in order. The bound of two CTAs per SM gives the compiler registers to search tiles
/// concurrently; without it, it searches them one after the other.
__global__ void __launch_bounds__(kThreads, 2) merge_tiles_kernel(Key* sorted, const Key* keys, int M) {
  const int m = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (m >= M) return;
  const Key key = keys[m];
  int rank = 0;
  for (int begin = 0; begin < M; begin += kSearched * kTile) {
    int below[kSearched] = {};  // keys of each tile that are known to be smaller
    for (int step = kTile; step > 0; step /= 2) {
      Key probed[kSearched];
#pragma unroll
      for (int t = 0; t < kSearched; ++t) probed[t] = __ldg(keys + min(begin + t * kTile + below[t] + step, M) - 1);
#pragma unroll
      for (int t = 0; t < kSearched; ++t) {
        const int next = below[t] + step;
        const bool exists = next <= kTile && begin + t * kTile + next <= M;
        below[t] = exists & (probed[t] < key) ? next : below[t];
      }
    }
#pragma unroll
    for (int t = 0; t < kSearched; ++t) rank += below[t];
  }
  sorted[rank] = key;
}

constexpr int kChunk = kEmbeddingChunk;  ///< sorted positions that a CTA adds up
constexpr int kRows = 4;                 ///< rows in flight at a time
static_assert(kChunk % kRows == 0);

/// Adds up the d_out rows of one chunk, sorted positions [chunk * kChunk, (chunk + 1) * kChunk), id by id. The sum of
/// an id starts from its d_weight row in the chunk where its positions start. If they end there too, the sum is stored
/// back to d_weight, else to partials[chunk][1]. Later chunks store their sums of that id to partials[.][0].
template <int kVec>
__global__ void __launch_bounds__(kThreads, 3)
    add_chunks_kernel(float* d_weight, float* partials, const __nv_bfloat16* d_out, const Key* sorted, int M, int H) {
  __shared__ std::int32_t position[kChunk], id[kChunk + 2];  // id[i + 1] belongs to position[i]; -1 = none
  // Low ids tend to be the frequent ones. Chunks of rare ids take longest, so they start first.
  const int chunk = static_cast<int>(gridDim.x - 1 - blockIdx.x), begin = chunk * kChunk;
  const int count = min(kChunk, M - begin);
  for (int i = static_cast<int>(threadIdx.x); i < kChunk + 2; i += kThreads) {
    const int s = begin + i - 1;
    const Key key = sorted[min(max(s, 0), M - 1)];
    id[i] = s >= 0 && s < M ? id_of(key) : -1;
    if (i > 0 && i <= kChunk) position[i - 1] = position_of(key);
  }
  __syncthreads();
  const int h = (static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x)) * kVec;
  if (h >= H) return;
  float* partial = partials + static_cast<std::int64_t>(chunk) * 2 * H + h;
  const auto row_of = [&](int i) { return d_weight + static_cast<std::int64_t>(id[i + 1]) * H + h; };
  const auto begins = [&](int i) { return id[i] != id[i + 1] && i < count; };
  Floats<kVec> sum{};
  bool from_earlier_chunk = !begins(0);
  for (int first = 0; first < count; first += kRows) {
    Floats<kVec> rows[kRows], before[kRows]{};
    // Past the end the last row is read again; nothing is stored from it.
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      rows[r] = load_constant<kVec>(d_out + static_cast<std::int64_t>(position[first + r]) * H + h);
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      if (begins(first + r)) before[r] = load<kVec>(row_of(first + r));
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int i = first + r;
      const bool anew = begins(i);
#pragma unroll
      for (int j = 0; j < kVec; ++j) sum[j] = (anew ? before[r][j] : sum[j]) + rows[r][j];
      const bool ends = id[i + 2] != id[i + 1];
      if (i >= count || (!ends && i + 1 < count)) continue;
      store<kVec>(from_earlier_chunk ? partial : ends ? row_of(i) : partial + H, sum);
      from_earlier_chunk = false;
    }
  }
}

constexpr int kLanes = 64, kGroups = kThreads / kLanes;
constexpr int kInFlight = 8;  ///< partial sums that a thread loads at a time

/// The CTAs of the chunk in which a shared id starts add up its partial sums: each of four thread groups takes every
/// fourth of the later chunks, and the first group adds up the four. The bound of two CTAs per SM gives the compiler
/// registers to keep loads in flight.
template <int kVec>
__global__ void __launch_bounds__(kThreads, 2)
    add_shared_kernel(float* d_weight, const float* partials, const Key* sorted, int M, int H) {
  __shared__ float group_sums[kGroups][kLanes * kVec];
  const int chunk = static_cast<int>(blockIdx.x), begin = chunk * kChunk, end = begin + kChunk;
  if (end >= M) return;  // the last chunk
  const std::int32_t id = id_of(sorted[end - 1]);
  if (id_of(sorted[end]) != id) return;
  if (begin > 0 && id_of(sorted[begin - 1]) == id) return;  // the id starts in an earlier chunk
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kLanes, group = thread / kLanes;
  int after = 0;  // later chunks that have a partial sum of this id
  for (int found = kThreads; found == kThreads; after += found) {
    const std::int64_t s = end + static_cast<std::int64_t>(after + thread) * kChunk;
    found = __syncthreads_count(s < M && id_of(sorted[s]) == id);
  }
  const int h = (static_cast<int>(blockIdx.y) * kLanes + lane) * kVec;
  Floats<kVec> sum{};
  if (h < H) {
    const float* id_partials = partials + static_cast<std::int64_t>(chunk) * 2 * H + h;
    if (group == 0) sum = load_constant<kVec>(id_partials + H);
    for (int first = 1 + group; first <= after; first += kInFlight * kGroups) {
      Floats<kVec> loaded[kInFlight];
#pragma unroll
      for (int r = 0; r < kInFlight; ++r)  // past the end the last one again, without a branch between the loads
        loaded[r] =
            load_constant<kVec>(id_partials + static_cast<std::int64_t>(min(first + r * kGroups, after)) * 2 * H);
#pragma unroll
      for (int r = 0; r < kInFlight; ++r) {
        const bool exists = first + r * kGroups <= after;
#pragma unroll
        for (int j = 0; j < kVec; ++j) sum[j] += exists ? loaded[r][j] : 0.0f;
      }
    }
#pragma unroll
    for (int j = 0; j < kVec; ++j) group_sums[group][lane * kVec + j] = sum[j];
  }
  __syncthreads();
  if (group > 0 || h >= H) return;
  for (int g = 1; g < kGroups; ++g)
#pragma unroll
    for (int j = 0; j < kVec; ++j) sum[j] += group_sums[g][lane * kVec + j];
  store<kVec>(d_weight + static_cast<std::int64_t>(id) * H + h, sum);
}

}  // namespace

void embedding_forward(Stream& stream, const EmbeddingForward& p) {
  const std::int64_t M = p.out.dim(0), H = p.out.dim(1);
  const auto kernel = H % 8 == 0 ? embedding_forward_kernel<8> : embedding_forward_kernel<1>;
  launch(stream, "embedding_forward", kernel, {.grid = ctas_for(M, kGathered), .block = kThreads}, bf16(p.out),
         p.ids.as<std::int32_t>(), bf16(p.weight), M, H);
}

void embedding_backward(Stream& stream, const EmbeddingBackward& p) {
  const std::int64_t M = p.d_out.dim(0), H = p.d_out.dim(1);
  auto* partials = static_cast<float*>(stream.scratch(scratch_bytes(p)));
  auto* keys = reinterpret_cast<Key*>(partials + embedding_partials(M) * H);  // aligned: an even number of floats
  Key* sorted = keys + M;
  constexpr auto op = "embedding_backward";
  launch(stream, op, sort_tiles_kernel, {.grid = ctas_for(M, kTile), .block = kTile / 2}, keys,
         p.ids.as<std::int32_t>(), M);
  launch(stream, op, merge_tiles_kernel, {.grid = ctas_for(M, kThreads), .block = kThreads}, sorted, keys, M);
  const auto add = [&]<int kVec>() {
    const unsigned chunks = ctas_for(M, kChunk);
    auto* d_weight = p.d_weight.as<float>();
    launch(stream, op, add_chunks_kernel<kVec>, {.grid = dim3(chunks, ctas_for(H, kThreads * kVec)), .block = kThreads},
           d_weight, partials, bf16(p.d_out), sorted, M, H);
    launch(stream, op, add_shared_kernel<kVec>, {.grid = dim3(chunks, ctas_for(H, kLanes * kVec)), .block = kThreads},
           d_weight, partials, sorted, M, H);
  };
  if (H % 8 == 0)
    add.template operator()<8>();
  else
    add.template operator()<1>();
}

}  // namespace ssa::cuda
