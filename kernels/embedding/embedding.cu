// Forward: a gather of rows. Backward: positions are sorted by (id, position), then pieces of that order are added up
// row by row, and what pieces share in a third step: no float atomics, whose rate is far below that of plain stores.
//
// The sort: a block sorts a tile of positions, then every position counts, by bisection, those of each tile that come
// before it. That is M * tiles * log(tile) steps, few at any M of a step, and needs neither histograms over the
// vocabulary nor several passes.
#include "embedding.h"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/vector.cuh"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 256;

constexpr int kGathered = 4;  ///< rows of one block of the forward, in flight together

/// Past the end a thread copies the last row again, so that no branch parts the loads.
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

/// A position and, above it, its id: keys are distinct and sort by id, then by position.
using Key = std::uint64_t;
__device__ __forceinline__ Key key_of(std::int32_t id, int position) {
  return static_cast<Key>(static_cast<std::uint32_t>(id)) << 32 | static_cast<std::uint32_t>(position);
}
__device__ __forceinline__ std::int32_t id_of(Key key) { return static_cast<std::int32_t>(key >> 32); }
__device__ __forceinline__ int position_of(Key key) { return static_cast<int>(key & 0xffffffffu); }

constexpr int kTile = 2048;  ///< positions that a block sorts, two a thread

/// keys[m] for each tile of positions, sorted: bitonic (Batcher 1968).
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
      // Up to distance 32 a warp keeps to 64 keys of its own. After distance 1 comes distance `run`.
      if (distance > kWarpSize || (distance == 1 && run > kWarpSize))
        __syncthreads();
      else
        __syncwarp();
    }
  for (int i = thread; i < kTile; i += kTile / 2)
    if (begin + i < M) keys[begin + i] = tile[i];
}

constexpr int kBisected = 8;  ///< tiles that a thread bisects at a time

/// sorted = keys in order. Two blocks an SM are enough: without that bound the compiler saves registers, and bisects
/// one tile after the other.
__global__ void __launch_bounds__(kThreads, 2) merge_tiles_kernel(Key* sorted, const Key* keys, int M) {
  const int m = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (m >= M) return;
  const Key key = keys[m];
  int rank = 0;
  for (int begin = 0; begin < M; begin += kBisected * kTile) {
    int below[kBisected] = {};  // keys of each tile known to come before
    for (int step = kTile; step > 0; step /= 2) {
      Key probed[kBisected];
#pragma unroll
      for (int t = 0; t < kBisected; ++t) probed[t] = __ldg(keys + min(begin + t * kTile + below[t] + step, M) - 1);
#pragma unroll
      for (int t = 0; t < kBisected; ++t) {
        const int next = below[t] + step;
        const bool exists = next <= kTile && begin + t * kTile + next <= M;
        below[t] = exists & (probed[t] < key) ? next : below[t];
      }
    }
#pragma unroll
    for (int t = 0; t < kBisected; ++t) rank += below[t];
  }
  sorted[rank] = key;
}

constexpr int kPiece = kEmbeddingPiece;  ///< sorted positions of one block of the adding kernel
constexpr int kRows = 4;                 ///< rows in flight at a time
static_assert(kPiece % kRows == 0);

/// Block (x, y) adds up the rows of piece `piece`, sorted positions [piece * kPiece, (piece + 1) * kPiece), of each id.
/// The sum of an id begins with its d_weight where its positions begin, and goes back there if they end in this piece.
/// Else it goes to partials[piece][1], and what pieces after it have of that id to their partials[.][0].
template <int kVec>
__global__ void __launch_bounds__(kThreads, 3)
    add_pieces_kernel(float* d_weight, float* partials, const __nv_bfloat16* d_out, const Key* sorted, int M, int H) {
  __shared__ std::int32_t position[kPiece], id[kPiece + 2];  // id[i + 1] of position[i]; -1 where there is none
  // Most frequent ids tend to be the lowest. Pieces of rare ones have most to do: they come first.
  const int piece = static_cast<int>(gridDim.x - 1 - blockIdx.x), begin = piece * kPiece;
  const int count = min(kPiece, M - begin);
  for (int i = static_cast<int>(threadIdx.x); i < kPiece + 2; i += kThreads) {
    const int s = begin + i - 1;
    const Key key = sorted[min(max(s, 0), M - 1)];
    id[i] = s >= 0 && s < M ? id_of(key) : -1;
    if (i > 0 && i <= kPiece) position[i - 1] = position_of(key);
  }
  __syncthreads();
  const int h = (static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x)) * kVec;
  if (h >= H) return;
  float* partial = partials + static_cast<std::int64_t>(piece) * 2 * H + h;
  const auto row_of = [&](int i) { return d_weight + static_cast<std::int64_t>(id[i + 1]) * H + h; };
  const auto begins = [&](int i) { return id[i] != id[i + 1] && i < count; };
  Floats<kVec> sum{};
  bool from_before = !begins(0);
  for (int first = 0; first < count; first += kRows) {
    Floats<kVec> rows[kRows], before[kRows]{};
    // Past the end the last row is read again; nothing is stored after it.
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
      store<kVec>(from_before ? partial : ends ? row_of(i) : partial + H, sum);
      from_before = false;
    }
  }
}

constexpr int kSharedLanes = 64, kSharedGroups = kThreads / kSharedLanes;
constexpr int kShares = 8;  ///< that a thread has in flight

/// The blocks of the piece in which a shared id begins add up its shares: groups of lanes take every fourth of the
/// pieces after it, and the first group adds up the groups. The bound on blocks as above.
template <int kVec>
__global__ void __launch_bounds__(kThreads, 2)
    add_shared_kernel(float* d_weight, const float* partials, const Key* sorted, int M, int H) {
  __shared__ float of_groups[kSharedGroups][kSharedLanes * kVec];
  const int piece = static_cast<int>(blockIdx.x), begin = piece * kPiece, end = begin + kPiece;
  if (end >= M) return;  // nothing comes after this piece
  const std::int32_t id = id_of(sorted[end - 1]);
  if (id_of(sorted[end]) != id) return;
  if (begin > 0 && id_of(sorted[begin - 1]) == id) return;  // it began before
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kSharedLanes, group = thread / kSharedLanes;
  int after = 0;  // pieces that have shares of it
  for (int found = kThreads; found == kThreads; after += found) {
    const std::int64_t s = end + static_cast<std::int64_t>(after + thread) * kPiece;
    found = __syncthreads_count(s < M && id_of(sorted[s]) == id);
  }
  const int h = (static_cast<int>(blockIdx.y) * kSharedLanes + lane) * kVec;
  Floats<kVec> sum{};
  if (h < H) {
    const float* shares = partials + static_cast<std::int64_t>(piece) * 2 * H + h;
    if (group == 0) sum = load_constant<kVec>(shares + H);
    for (int first = 1 + group; first <= after; first += kShares * kSharedGroups) {
      Floats<kVec> of_pieces[kShares];
#pragma unroll
      for (int r = 0; r < kShares; ++r)  // past the end the last again, so that no branch parts the loads
        of_pieces[r] =
            load_constant<kVec>(shares + static_cast<std::int64_t>(min(first + r * kSharedGroups, after)) * 2 * H);
#pragma unroll
      for (int r = 0; r < kShares; ++r) {
        const bool exists = first + r * kSharedGroups <= after;
#pragma unroll
        for (int j = 0; j < kVec; ++j) sum[j] += exists ? of_pieces[r][j] : 0.0f;
      }
    }
#pragma unroll
    for (int j = 0; j < kVec; ++j) of_groups[group][lane * kVec + j] = sum[j];
  }
  __syncthreads();
  if (group > 0 || h >= H) return;
  for (int g = 1; g < kSharedGroups; ++g)
#pragma unroll
    for (int j = 0; j < kVec; ++j) sum[j] += of_groups[g][lane * kVec + j];
  store<kVec>(d_weight + static_cast<std::int64_t>(id) * H + h, sum);
}

}  // namespace

void embedding_forward(Stream& stream, const EmbeddingForward& p) {
  const std::int64_t M = p.out.dim(0), H = p.out.dim(1);
  const auto kernel = H % 8 == 0 ? embedding_forward_kernel<8> : embedding_forward_kernel<1>;
  launch(stream, "embedding_forward", kernel, {.grid = blocks_for(M, kGathered), .block = kThreads}, bf16(p.out),
         p.ids.as<std::int32_t>(), bf16(p.weight), M, H);
}

void embedding_backward(Stream& stream, const EmbeddingBackward& p) {
  const std::int64_t M = p.d_out.dim(0), H = p.d_out.dim(1);
  auto* partials = static_cast<float*>(stream.scratch(embedding_backward_scratch_bytes(DeviceKind::cuda, M, H)));
  auto* keys = reinterpret_cast<Key*>(partials + embedding_partials(M) * H);  // a multiple of two floats on
  Key* sorted = keys + M;
  constexpr auto op = "embedding_backward";
  launch(stream, op, sort_tiles_kernel, {.grid = blocks_for(M, kTile), .block = kTile / 2}, keys,
         p.ids.as<std::int32_t>(), M);
  launch(stream, op, merge_tiles_kernel, {.grid = blocks_for(M, kThreads), .block = kThreads}, sorted, keys, M);
  const auto add = [&]<int kVec>() {
    const unsigned pieces = blocks_for(M, kPiece);
    auto* d_weight = p.d_weight.as<float>();
    launch(stream, op, add_pieces_kernel<kVec>,
           {.grid = dim3(pieces, blocks_for(H, kThreads * kVec)), .block = kThreads}, d_weight, partials, bf16(p.d_out),
           sorted, M, H);
    launch(stream, op, add_shared_kernel<kVec>,
           {.grid = dim3(pieces, blocks_for(H, kSharedLanes * kVec)), .block = kThreads}, d_weight, partials, sorted, M,
           H);
  };
  if (H % 8 == 0)
    add.template operator()<8>();
  else
    add.template operator()<1>();
}

}  // namespace ssa::cuda
