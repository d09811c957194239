// Streaming, with vectors of 16 bytes. A thread loads pairs of vectors, (i, i + D/2) of one head, and has all of them
// in flight before it uses the first, so that the resident threads of an SM saturate its share of the bandwidth.
//
// The forward has three kinds of CTAs:
// * k and v: a thread takes one pair through all tokens of a block, so that it can sum the means alone. These CTAs take
//   longest and therefore come first.
// * gates: a thread takes one vector of gate logits of kGateTokens tokens.
// * q: a thread takes one pair of kQueryHeads heads of one token.
// The backward has no sums: a thread takes one pair, or one vector of gates, of one token. In FP8 a CTA takes a tile of
// 128 tokens and 128 columns; a thread has the loads of its eight tokens in flight before it uses the first.
#include <algorithm>
#include <climits>

#include "kernels/common/device/divide.cuh"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/math.cuh"
#include "kernels/common/device/vector.cuh"
#include "kernels/quantize_fp8/fp8_tile.cuh"
#include "qkv_rope.h"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kGates = 3;

struct Heads {
  int HQ, HK, D;
  __host__ __device__ int width() const { return (HQ + 2 * HK) * D + kGates * HQ; }
};

template <int kVec>
struct Angles {
  Floats<kVec> cosine, sine;
};

/// The angles of pairs [d, d + kVec); cos_sin is the table row of one position.
template <int kVec>
__device__ __forceinline__ Angles<kVec> load_angles(const float* cos_sin, int d) {
  const Floats<2 * kVec> raw = [&] {
    if constexpr (kVec == 1)
      return Floats<2>{{__ldg(cos_sin + 2 * d), __ldg(cos_sin + 2 * d + 1)}};
    else
      return load_constant<2 * kVec>(cos_sin + 2 * d);
  }();
  Angles<kVec> angles;
#pragma unroll
  for (int i = 0; i < kVec; ++i) angles.cosine[i] = raw[2 * i], angles.sine[i] = raw[2 * i + 1];
  return angles;
}

/// kVec adjacent elements of a head's lower half, and the elements of the upper half that they are rotated with.
template <int kVec>
struct Pair {
  Floats<kVec> low, high;
};

template <int kVec, class T>
__device__ __forceinline__ Pair<kVec> load_pair(const T* from, int half) {
  return {load_constant<kVec>(from), load_constant<kVec>(from + half)};
}

template <int kVec>
__device__ __forceinline__ void store_pair(__nv_bfloat16* to, int half, const Pair<kVec>& pair) {
  store<kVec>(to, pair.low);
  store<kVec>(to + half, pair.high);
}

/// `own` of a pair, rotated; `other` is the pair's other element. Explicit, so that each kernel rounds in the same way.
__device__ __forceinline__ float rotate_one(float own, float other, float cosine, float sine) {
  return __fmaf_rn(own, cosine, __fmul_rn(other, sine));
}

/// Rotates by the angles (kSign 1) or back (kSign -1).
template <int kSign, int kVec>
__device__ __forceinline__ Pair<kVec> rotate(const Pair<kVec>& x, const Angles<kVec>& angles) {
  Pair<kVec> out;
#pragma unroll
  for (int i = 0; i < kVec; ++i) {
    const float sine = kSign * angles.sine[i];
    out.low[i] = rotate_one(x.low[i], x.high[i], angles.cosine[i], -sine);
    out.high[i] = rotate_one(x.high[i], x.low[i], angles.cosine[i], sine);
  }
  return out;
}

/// Head and first dimension of pair vector `item`; a head has D/2 / kVec of them. kChunks is D/2 / kVec if it is known
/// at compile time, else 0.
struct PairIndex {
  int head, d;
};
template <int kVec, int kChunks>
__device__ __forceinline__ PairIndex pair_index(int item, int D) {
  const int chunks = kChunks > 0 ? kChunks : D / 2 / kVec;
  return {item / chunks, item % chunks * kVec};
}

struct Forward {
  __nv_bfloat16 *q, *k, *v, *k_mean, *v_mean;
  float* gates;
  const __nv_bfloat16* qkvg;
  std::int64_t stride;  ///< from row to row of qkvg
  const std::int32_t* positions;
  const float* cos_sin;
  std::int64_t T, N, M, blocks;  ///< blocks: B * N
  int block_size;
  Heads heads;
  // These depend on the vector width.
  Divisor kv_threads{}, gate_threads{}, q_threads{};  ///< threads per block, per kGateTokens tokens, per token
  unsigned gates_begin = 0, q_begin = 0;              ///< the first CTA of gates, and of q
};

template <int kVec, int kChunks>
__device__ __forceinline__ void forward_kv(const Forward& p, int thread) {
  const auto [block, item] = p.kv_threads.divide(thread);
  if (block >= p.blocks) return;
  const auto [HQ, HK, D] = p.heads;
  const auto [head, d] = pair_index<kVec, kChunks>(item, D);  // of k, then of v
  const int half = D / 2;
  const bool is_k = head < HK;
  const std::int64_t b = block / p.N, first = (block - b * p.N) * p.block_size, begin = b * p.T + first;
  const int count = static_cast<int>(min(static_cast<std::int64_t>(p.block_size), p.T - first));
  const int column = (is_k ? head : head - HK) * D + d;
  const __nv_bfloat16* from = p.qkvg + begin * p.stride + (HQ + head) * D + d;
  __nv_bfloat16* to = (is_k ? p.k : p.v) + begin * HK * D + column;
  Pair<kVec> sum{};
#pragma unroll 1
  for (int token = 0; token < count; ++token) {
    Pair<kVec> x = load_pair<kVec>(from + token * p.stride, half);
    // Threads of v load the angles too: a branch would separate the loads of their warp.
    const Angles<kVec> angles =
        load_angles<kVec>(p.cos_sin + static_cast<std::int64_t>(__ldg(p.positions + begin + token)) * D, d);
    const Pair<kVec> rotated = rotate<1>(x, angles);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      x.low[i] = round_bf16(is_k ? rotated.low[i] : x.low[i]);
      x.high[i] = round_bf16(is_k ? rotated.high[i] : x.high[i]);
      sum.low[i] += x.low[i];
      sum.high[i] += x.high[i];
    }
    store_pair<kVec>(to + static_cast<std::int64_t>(token) * HK * D, half, x);
  }
  __nv_bfloat16* mean = is_k ? p.k_mean : p.v_mean;
  if (!mean) return;
  const float share = 1.0f / static_cast<float>(count);
#pragma unroll
  for (int i = 0; i < kVec; ++i) sum.low[i] *= share, sum.high[i] *= share;
  store_pair<kVec>(mean + static_cast<std::int64_t>(block) * HK * D + column, half, sum);
}

// In the two functions below, the last threads repeat the last token or head instead of leaving out loads: a branch
// would separate the loads.

constexpr int kGateTokens = 4;  ///< tokens whose gates a thread has in flight

template <int kVec>
__device__ __forceinline__ void forward_gates(const Forward& p, int thread) {
  const auto [group, item] = p.gate_threads.divide(thread);
  const std::int64_t first = static_cast<std::int64_t>(group) * kGateTokens;
  if (first >= p.M) return;
  const auto [HQ, HK, D] = p.heads;
  const __nv_bfloat16* from = p.qkvg + (HQ + 2 * HK) * D + item * kVec;
  Floats<kVec> gates[kGateTokens];
#pragma unroll
  for (int i = 0; i < kGateTokens; ++i) gates[i] = load_constant<kVec>(from + min(first + i, p.M - 1) * p.stride);
#pragma unroll
  for (int i = 0; i < kGateTokens; ++i) {
#pragma unroll
    for (int j = 0; j < kVec; ++j) gates[i][j] = sigmoid(gates[i][j]);
    store<kVec>(p.gates + min(first + i, p.M - 1) * (kGates * HQ) + item * kVec, gates[i]);
  }
}

constexpr int kQueryHeads = 2;  ///< heads that a thread has in flight

template <int kVec, int kChunks>
__device__ __forceinline__ void forward_q(const Forward& p, int thread) {
  const auto [token, item] = p.q_threads.divide(thread);
  if (token >= p.M) return;
  const auto [HQ, HK, D] = p.heads;
  const std::int64_t m = token;
  const auto [first, d] = pair_index<kVec, kChunks>(item, D);
  const int half = D / 2, step = (HQ + kQueryHeads - 1) / kQueryHeads;
  const __nv_bfloat16* from = p.qkvg + m * p.stride + d;
  Pair<kVec> x[kQueryHeads];
#pragma unroll
  for (int i = 0; i < kQueryHeads; ++i) x[i] = load_pair<kVec>(from + min(first + i * step, HQ - 1) * D, half);
  const Angles<kVec> angles = load_angles<kVec>(p.cos_sin + static_cast<std::int64_t>(__ldg(p.positions + m)) * D, d);
#pragma unroll
  for (int i = 0; i < kQueryHeads; ++i)
    store_pair<kVec>(p.q + (m * HQ + min(first + i * step, HQ - 1)) * D + d, half, rotate<1>(x[i], angles));
}

template <int kVec, int kChunks, int kGateVec>
__global__ void __launch_bounds__(kThreads, 4) qkv_rope_forward_kernel(const __grid_constant__ Forward p) {
  wait_for_previous_kernel();
  const auto thread_from = [](unsigned first_cta) {
    return static_cast<int>((blockIdx.x - first_cta) * kThreads + threadIdx.x);
  };
  if (blockIdx.x < p.gates_begin)
    forward_kv<kVec, kChunks>(p, thread_from(0));
  else if (blockIdx.x < p.q_begin)
    forward_gates<kGateVec>(p, thread_from(p.gates_begin));
  else
    forward_q<kVec, kChunks>(p, thread_from(p.q_begin));
}

struct Backward {
  __nv_bfloat16* d_qkvg;
  std::int64_t stride;  ///< from row to row of d_qkvg
  const float *d_q, *d_k, *d_v, *d_gates, *d_k_mean, *d_v_mean, *gates;
  const std::int32_t* positions;
  const float* cos_sin;
  std::int64_t T, N, M;
  int block_size;
  Heads heads;
  // These depend on the vector width.
  int pairs = 0;      ///< pair vectors of q, k and v per token
  Divisor threads{};  ///< threads per token: one per pair vector, then one per vector of gates
};

template <int kVec>
__device__ __forceinline__ void add_scaled(Floats<kVec>& to, const float* from, float scale) {
  const Floats<kVec> x = load_constant<kVec>(from);
#pragma unroll
  for (int i = 0; i < kVec; ++i) to[i] += scale * x[i];
}

/// The gradients of gate logits [i, i + kVec) of token m.
template <int kVec>
__device__ __forceinline__ Floats<kVec> gate_gradient(const Backward& p, std::int64_t m, int i) {
  const std::int64_t at = m * kGates * p.heads.HQ + i;
  Floats<kVec> d_logit = load_constant<kVec>(p.d_gates + at);
  const Floats<kVec> gate = load_constant<kVec>(p.gates + at);
#pragma unroll
  for (int j = 0; j < kVec; ++j) d_logit[j] *= gate[j] * (1.0f - gate[j]);
  return d_logit;
}

/// What each token of a block gets of its mean's gradient.
struct MeanShare {
  std::int64_t block;  ///< of all sequences
  float share;
};
__device__ __forceinline__ MeanShare mean_share(const Backward& p, std::int64_t m) {
  const int T = static_cast<int>(p.T), token = static_cast<int>(m), b = token / T;
  const int block = (token - b * T) / p.block_size;
  return {b * p.N + block, 1.0f / static_cast<float>(min(p.block_size, T - block * p.block_size))};
}

/// The gradients of columns d and d + D/2 of a head of q, k or v of token m.
template <int kVec>
__device__ __forceinline__ Pair<kVec> pair_gradient(const Backward& p, std::int64_t m, int head, int d) {
  const auto [HQ, HK, D] = p.heads;
  const int half = D / 2;
  const bool is_q = head < HQ, is_v = head >= HQ + HK;
  const int kv_head = is_v ? head - HQ - HK : head - HQ;
  const float* from = is_q ? p.d_q + (m * HQ + head) * D : (is_v ? p.d_v : p.d_k) + (m * HK + kv_head) * D;
  Pair<kVec> x = load_pair<kVec>(from + d, half);
  if (const float* mean = is_v ? p.d_v_mean : p.d_k_mean; !is_q && mean) {
    const auto [block, share] = mean_share(p, m);
    mean += (block * HK + kv_head) * D + d;
    add_scaled(x.low, mean, share);
    add_scaled(x.high, mean + half, share);
  }
  if (!is_v) x = rotate<-1>(x, load_angles<kVec>(p.cos_sin + static_cast<std::int64_t>(__ldg(p.positions + m)) * D, d));
  return x;
}

template <int kVec, int kChunks, int kGateVec>
__global__ void __launch_bounds__(kThreads, 4) qkv_rope_backward_kernel(const __grid_constant__ Backward p) {
  const auto [token, item] = p.threads.divide(static_cast<int>(blockIdx.x * kThreads + threadIdx.x));
  if (token >= p.M) return;
  const auto [HQ, HK, D] = p.heads;
  const std::int64_t m = token;
  __nv_bfloat16* to = p.d_qkvg + m * p.stride;
  if (item >= p.pairs) {
    const int i = (item - p.pairs) * kGateVec;
    return store<kGateVec>(to + (HQ + 2 * HK) * D + i, gate_gradient<kGateVec>(p, m, i));
  }
  const auto [head, d] = pair_index<kVec, kChunks>(item, D);
  store_pair<kVec>(to + head * D + d, D / 2, pair_gradient<kVec>(p, m, head, d));
}

/// The gradients of gate logits [i, i + 8) of token m, zeros past the last gate.
template <int kGateVec>
__device__ __forceinline__ Floats<8> eight_gate_gradients(const Backward& p, std::int64_t m, int i) {
  if constexpr (kGateVec == 8) {
    return gate_gradient<8>(p, m, i);
  } else {
    Floats<8> d{};
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (i + j < kGates * p.heads.HQ) d[j] = gate_gradient<1>(p, m, i + j)[0];
    return d;
  }
}

/// The gradients of eight adjacent columns of q, k or v, from `column` on, of tokens `row` .. `row` + 7, without means.
/// Heads have 16, 32, 64 or 128 columns, so the elements that a lane's are rotated with are in another lane of the same
/// 16. Called by all lanes; those past the heads or tokens load something else, and get zeros.
__device__ __forceinline__ void head_gradients(uint4 (&tile)[8], const Backward& p, int row, int column) {
  const auto [HQ, HK, D] = p.heads;
  const bool is_token = row < static_cast<int>(p.M), is_head = column < (HQ + 2 * HK) * D;
  if (!is_token) row = 0;
  const int half = D / 2, head = is_head ? column / D : 0, d = column % D;
  const bool is_q = head < HQ, is_v = head >= HQ + HK, upper = d >= half;
  const int kv_head = is_v ? head - HQ - HK : head - HQ;
  const int stride = (is_q ? HQ : HK) * D;
  const float* from = (is_q ? p.d_q + head * D : (is_v ? p.d_v : p.d_k) + kv_head * D) + std::int64_t{row} * stride + d;
  const int position_of_lane = __ldg(p.positions + row + threadIdx.x % 8);
  Floats<8> x[8];
#pragma unroll
  for (int i = 0; i < 8; ++i, from += stride) x[i] = load_constant<8>(from);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int position = __shfl_sync(kFullMask, position_of_lane, i, 16);
    Angles<8> angles = load_angles<8>(p.cos_sin + static_cast<std::int64_t>(position) * D, upper ? d - half : d);
    // Lanes of v load the angles too: a branch would separate the loads, and this keeps the compiler from making one.
#pragma unroll
    for (int j = 0; j < 8; ++j) asm volatile("" : "+f"(angles.cosine[j]), "+f"(angles.sine[j]));
    Floats<8> y;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float other = __shfl_xor_sync(kFullMask, x[i][j], half / 8);
      const float rotated = rotate_one(x[i][j], other, angles.cosine[j], upper ? -angles.sine[j] : angles.sine[j]);
      y[j] = is_v ? x[i][j] : rotated;
    }
    tile[i] = pack_bf16(y);
  }
  if (is_token && is_head) return;
#pragma unroll
  for (int i = 0; i < 8; ++i) tile[i] = {};
}

/// tile[i] = row(i). One row after another: with more in flight there are too few registers.
template <class F>
__device__ __forceinline__ void rows_in_turn(uint4 (&tile)[8], F&& row) {
#pragma unroll
  for (int j = 0; j < 8; ++j) tile[j] = {};
#pragma unroll 1
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int j = 0; j < 7; ++j) tile[j] = tile[j + 1];
    tile[7] = row(i);
  }
}

/// The same as head_gradients for heads of any size, with means. The lane that has the other elements of the pairs
/// loads the same ones.
__device__ __forceinline__ uint4 head_gradients_of_row(const Backward& p, int row, int column) {
  const int D = p.heads.D, half = D / 2, head = column / D, d = column - head * D;
  const bool upper = d >= half;
  const Pair<8> pair = pair_gradient<8>(p, row, head, upper ? d - half : d);
  Floats<8> y;
#pragma unroll
  for (int j = 0; j < 8; ++j) y[j] = upper ? pair.high[j] : pair.low[j];
  return pack_bf16(y);
}

/// In FP8: a CTA takes a tile of 128 tokens and 128 columns. A thread's eight columns are in one half of a head.
/// kWithinTile: heads have 16, 32, 64 or 128 columns, so that a head is in one tile.
template <int kGateVec, bool kWithinTile>
__global__ void __launch_bounds__(kFp8TileThreads, 2)
    qkv_rope_backward_fp8_kernel(const __grid_constant__ Backward p, Fp8Target fp8, Fp8Target fp8_t) {
  __shared__ alignas(16) Fp8SquareTileShared shared;
  const Fp8TilePlace at;
  const auto [HQ, HK, D] = p.heads;
  const int M = static_cast<int>(p.M), width = p.heads.width(), gates_begin = (HQ + 2 * HK) * D;
  const int tile_begin = at.tile_column * kFp8Tile;
  const bool means = (p.d_k_mean || p.d_v_mean) && tile_begin + kFp8Tile > HQ * D;  // few tiles have k and v
  uint4 tile[8];
  if (kWithinTile && !means && tile_begin < gates_begin)
    head_gradients(tile, p, at.row, at.column);
  else
    rows_in_turn(tile, [&](int i) {
      return at.row < M && at.column < gates_begin ? head_gradients_of_row(p, at.row + i, at.column) : uint4{};
    });
  if (tile_begin + kFp8Tile > gates_begin) {
    const Fp8TilePlace gates(fresh(static_cast<int>(threadIdx.x)));
    if (gates.row < M && gates.column >= gates_begin && gates.column < width)
      rows_in_turn(tile, [&](int i) {
        return pack_bf16(eight_gate_gradients<kGateVec>(p, gates.row + i, gates.column - gates_begin));
      });
  }
  quantize_tile<true, true, Fp8Sizes::any, Fp8TileBlocks::row_and_square>(fp8, fp8_t, shared, tile, at.tile_row,
                                                                          at.tile_column, M, width);
}

/// Calls f.operator()<vector width, vectors per half head, width of gates>(). Vectors need rows and parts of qkvg that
/// begin at multiples of 16 bytes, vectors of gates also rows of gates that are whole vectors.
template <class F>
void dispatch_head(const Heads& heads, std::int64_t stride, F&& f) {
  const int gates = kGates * heads.HQ;
  const auto with_chunks = [&]<int kChunks>() {
    if (gates % 8 == 0) return f.template operator()<8, kChunks, 8>();
    return f.template operator()<8, kChunks, 1>();
  };
  if (stride % 8 == 0 && heads.D == 64) return with_chunks.template operator()<4>();
  if (stride % 8 == 0 && heads.D == 128) return with_chunks.template operator()<8>();
  return f.template operator()<1, 0, 1>();
}

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// Threads are numbered by ints, those of the last CTA included.
void check_threads(const char* op, std::int64_t tokens, std::int64_t threads_per_token) {
  SSA_CHECK(tokens * threads_per_token <= INT_MAX - kThreads, op, ": ", tokens, " tokens x ", threads_per_token,
            " threads each, expected at most ", INT_MAX - kThreads, " in all");
}

}  // namespace

void qkv_rope_forward(Stream& stream, const QkvRopeForward& p) {
  const std::int64_t B = p.q.dim(0), T = p.q.dim(1), N = (T + p.block_size - 1) / p.block_size;
  const Heads heads{static_cast<int>(p.q.dim(2)), static_cast<int>(p.k.dim(2)), static_cast<int>(p.q.dim(3))};
  Forward arguments{.q = bf16(p.q),
                    .k = bf16(p.k),
                    .v = bf16(p.v),
                    .k_mean = bf16(p.k_mean),
                    .v_mean = bf16(p.v_mean),
                    .gates = p.gates.as<float>(),
                    .qkvg = bf16(p.qkvg),
                    .stride = p.qkvg.dim(1),
                    .positions = p.positions.as<std::int32_t>(),
                    .cos_sin = p.cos_sin.as<float>(),
                    .T = T,
                    .N = N,
                    .M = B * T,
                    .blocks = B * N,
                    .block_size = static_cast<int>(p.block_size),
                    .heads = heads};
  dispatch_head(heads, p.qkvg.dim(1), [&]<int kVec, int kChunks, int kGateVec>() {
    const int chunks = heads.D / 2 / kVec, kv_threads = 2 * heads.HK * chunks;
    const int gate_threads = kGates * heads.HQ / kGateVec;
    const int q_threads = ceil_div(heads.HQ, kQueryHeads) * chunks;
    check_threads("qkv_rope_forward", B * T, std::max({kv_threads, gate_threads, q_threads}));
    arguments.kv_threads = Divisor(kv_threads);
    arguments.gate_threads = Divisor(gate_threads);
    arguments.q_threads = Divisor(q_threads);
    arguments.gates_begin = ctas_for(B * N * kv_threads, kThreads);
    arguments.q_begin =
        arguments.gates_begin + ctas_for((B * T + kGateTokens - 1) / kGateTokens * gate_threads, kThreads);
    launch(stream, "qkv_rope_forward", qkv_rope_forward_kernel<kVec, kChunks, kGateVec>,
           {.grid = arguments.q_begin + ctas_for(B * T * q_threads, kThreads), .block = kThreads, .waits = true},
           arguments);
  });
}

void qkv_rope_backward(Stream& stream, const QkvRopeBackward& p) {
  const std::int64_t B = p.d_q.dim(0), T = p.d_q.dim(1);
  const Heads heads{static_cast<int>(p.d_q.dim(2)), static_cast<int>(p.d_k.dim(2)), static_cast<int>(p.d_q.dim(3))};
  Backward arguments{.d_qkvg = bf16(p.d_qkvg),
                     .stride = p.d_qkvg ? p.d_qkvg.dim(1) : 0,
                     .d_q = p.d_q.as<float>(),
                     .d_k = p.d_k.as<float>(),
                     .d_v = p.d_v.as<float>(),
                     .d_gates = p.d_gates.as<float>(),
                     .d_k_mean = p.d_k_mean.as_or_null<float>(),
                     .d_v_mean = p.d_v_mean.as_or_null<float>(),
                     .gates = p.gates.as<float>(),
                     .positions = p.positions.as<std::int32_t>(),
                     .cos_sin = p.cos_sin.as<float>(),
                     .T = T,
                     .N = (T + p.block_size - 1) / p.block_size,
                     .M = B * T,
                     .block_size = static_cast<int>(p.block_size),
                     .heads = heads};
  if (p.fp8) {
    const bool whole_gates = kGates * heads.HQ % 8 == 0, within_tile = kFp8Tile % heads.D == 0;
    const auto kernel =
        whole_gates   ? within_tile ? qkv_rope_backward_fp8_kernel<8, true> : qkv_rope_backward_fp8_kernel<8, false>
          : within_tile ? qkv_rope_backward_fp8_kernel<1, true>
                      : qkv_rope_backward_fp8_kernel<1, false>;
    return launch(stream, "qkv_rope_backward", kernel, fp8_tiles(B * T, heads.width()), arguments, Fp8Target(p.fp8),
                  Fp8Target(p.fp8_t));
  }
  dispatch_head(heads, arguments.stride, [&]<int kVec, int kChunks, int kGateVec>() {
    arguments.pairs = (heads.HQ + 2 * heads.HK) * (heads.D / 2 / kVec);
    const int threads = arguments.pairs + kGates * heads.HQ / kGateVec;
    check_threads("qkv_rope_backward", B * T, threads);
    arguments.threads = Divisor(threads);
    launch(stream, "qkv_rope_backward", qkv_rope_backward_kernel<kVec, kChunks, kGateVec>,
           {.grid = ctas_for(B * T * threads, kThreads), .block = kThreads}, arguments);
  });
}

}  // namespace ssa::cuda
