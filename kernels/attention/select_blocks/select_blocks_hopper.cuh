// select_blocks on Hopper, for tokens with at most 512 blocks, or 1024 with heads of 64 in groups of up to 16: one pass
// over the block means. README.md explains it.
#pragma once

#include "config_hopper.cuh"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/ptx/tma.cuh"

namespace ssa::cuda {

struct SelectHopperArgs {
  CUtensorMap q;       ///< boxes of C::kColumns rows: C::kHeads heads of C::kTokens tokens
  CUtensorMap k_mean;  ///< boxes of 64 blocks
  SelectArgs in;
  int t_end;  ///< the CTAs take the tokens before it, from the last ones on: a multiple of C::kCtaTokens, or T
};

#if SSA_WGMMA_CODE
/// The tokens of one CTA and of the calling thread's team.
template <class C>
struct SelectHopperTask {
  int team, thread, warp, lane;  ///< within the warpgroup
  int kv_head, row;
  int t0, steps;  ///< of the CTA; the teams take turns

  /// The longest tasks start first: CTAs take the last C::kCtaTokens tokens of each sequence and key/value head, then
  /// those before.
  __device__ __forceinline__ SelectHopperTask(const SelectArgs& a, int t_end)
      : thread(static_cast<int>(threadIdx.x) % kWarpgroupThreads),
        warp(uniform(thread / kWarpSize)),
        lane(thread % kWarpSize),
        kv_head(static_cast<int>(blockIdx.x) % a.HK),
        row(static_cast<int>(blockIdx.x) / a.HK % a.B),
        t0(((t_end - 1) / C::kCtaTokens - static_cast<int>(blockIdx.x) / a.HK / a.B) * C::kCtaTokens),
        steps((min(C::kCtaTokens, a.T - t0) + C::kTokens - 1) / C::kTokens) {
    team = C::kTeams == 1 ? 0 : uniform(static_cast<int>(threadIdx.x) / kWarpgroupThreads % C::kTeams);
  }
};

/// Waits until at most `pending` batches of products are running; `pending` is known at compile time after unrolling.
__device__ __forceinline__ void wgmma_wait_unrolled(int pending) {
  switch (pending) {
    case 0: wgmma_wait<0>(); break;
    case 1: wgmma_wait<1>(); break;
    case 2: wgmma_wait<2>(); break;
    case 3: wgmma_wait<3>(); break;
    case 4: wgmma_wait<4>(); break;
    case 5: wgmma_wait<5>(); break;
    case 6: wgmma_wait<6>(); break;
    default: wgmma_wait<7>(); break;
  }
}

/// A scoring warpgroup. In the products rows are blocks and columns the heads of the step's tokens; a warp owns 16
/// blocks of each tile.
template <class C>
class SelectHopperScorer {
 public:
  __device__ __forceinline__ SelectHopperScorer(typename C::Shared& shared, const SelectHopperArgs& a,
                                                const SelectHopperTask<C>& task)
      : shared_(shared),
        team_(shared.team[task.team]),
        a_(a),
        task_(task),
        warp_(task.warp),
        lane_(task.lane),
        scale2_(a.in.scale * kLog2e) {}

  __device__ __forceinline__ void run() {
    if (task_.thread == 0) {
      if (task_.team == 0) load_means(C::kDocuments ? a_.in.first_block(task_.row, task_.t0) : 0);
      for (int i = 0; i < C::kQueryStages; ++i) load_queries(i);
    }
    __syncwarp();
    shared_.means_full.wait(0);
    [[maybe_unused]] int first = C::kDocuments ? a_.in.first_block(task_.row, task_.t0) : 0, loads = 1;
    [[maybe_unused]] int seen = 0;  // steps of all teams
#pragma unroll 1
    for (int i = 0; task_.team + i * C::kTeams < task_.steps; ++i) {
      const int t = task_.t0 + (task_.team + i * C::kTeams) * C::kTokens;
      if constexpr (C::kDocuments) {
        static_assert(16 % C::kTokens == 0);  // the tokens of a step are in one piece
        // When the step of any team begins a new piece, its means replace the previous ones, for all teams.
        for (; seen <= task_.team + i * C::kTeams; ++seen) follow_piece(seen, first, loads);
      }
      first_ = first;
      const int complete = (min(t + C::kTokens, a_.in.T) >> a_.in.block_shift) - first;  // for the last token
      const int tiles = (complete + C::kTile - 1) / C::kTile;
      team_.q_full[i % C::kQueryStages].wait(i / C::kQueryStages & 1);
      bool done;
      if (tiles <= C::kTileStep)
        done = score<C::kTileStep, false>(i, t, tiles);
      else if (tiles <= 2 * C::kTileStep)
        done = score<2 * C::kTileStep, false>(i, t, tiles);
      else if (tiles <= 3 * C::kTileStep)
        done = score<3 * C::kTileStep, false>(i, t, tiles);
      else
        done = score<4 * C::kTileStep, false>(i, t, tiles);
      if (!done) score<C::kTiles, true>(i, t, tiles);
      if (task_.thread == 0) load_queries(i + C::kQueryStages);
      __syncwarp();
    }
    if constexpr (C::kDocuments && C::kTeams > 1)  // another team may have one more step
      for (; seen < task_.steps; ++seen) follow_piece(seen, first, loads);
  }

 private:
  static constexpr float kLargestSum = 0x1p60f;  ///< a sum above it or below its inverse is computed again

  /// If the tokens of this step belong to a new piece: waits until all teams are done with the previous one, loads its
  /// block means and waits for them.
  __device__ __forceinline__ void follow_piece(int step, int& first, int& loads) {
    const int first_now = a_.in.first_block(task_.row, min(task_.t0 + step * C::kTokens, a_.in.T - 1));
    if (first_now == first) return;
    first = first_now;
    barrier_sync(1 + C::kTeams, C::kTeams * kWarpgroupThreads);  // no warp has products of the others left
    if (task_.team == 0 && task_.thread == 0) load_means(first);
    __syncwarp();
    shared_.means_full.wait(loads++ & 1);
  }

  /// The means of the blocks from `first` on.
  __device__ __forceinline__ void load_means(int first) {
    const int complete = (min(a_.in.T, task_.t0 + C::kCtaTokens) >> a_.in.block_shift) - first;
    const int tiles = max(1, (complete + C::kTile - 1) / C::kTile);
    shared_.means_full.arrive_expect_tx(tiles * static_cast<int>(sizeof(shared_.means[0])));
    for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
      for (int half = 0; half < C::kHalves; ++half)
        tma_load(shared_.means[tile][half].data, a_.k_mean, task_.kv_head * C::kHalves + half, first + tile * C::kTile,
                 task_.row, shared_.means_full);
  }

  /// Of the team's i-th step.
  __device__ __forceinline__ void load_queries(int i) {
    const int step = task_.team + i * C::kTeams, stage = i % C::kQueryStages;
    if (step >= task_.steps) return;
    team_.q_full[stage].arrive_expect_tx(sizeof(team_.q[stage]));
#pragma unroll
    for (int half = 0; half < C::kHalves; ++half)
      tma_load(team_.q[stage][half].data, a_.q, half, task_.kv_head * (a_.in.HQ / a_.in.HK),
               task_.t0 + step * C::kTokens, task_.row, team_.q_full[stage]);
  }

  static constexpr int kColumnTiles = C::kColumns / 8;  ///< of 8 columns
  using ScoreTile = float[kColumnTiles][4];
  using OfColumns = float[kColumnTiles][2];                ///< a value for each of the lane's columns
  static constexpr int kSets = C::kColumns == 64 ? 2 : 1;  ///< of up to 32 columns, one per lane

  /// Importance of the blocks of the first `tiles` tiles for the tokens from t on: kTiles or up to C::kTileStep
  /// less, or with kRowMax any number. Returns false if the exponentials of the scores, which are not relative to
  /// anything, have a sum that is too large or too small; with kRowMax, exponents are relative to the warp's maximum.
  template <int kTiles, bool kRowMax>
  __device__ __forceinline__ bool score(int i, int t, int tiles) {
    float e[kTiles][kColumnTiles][4];
    const int stage = i % C::kQueryStages;
    wgmma_fence();
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < C::kHalves; ++half)
#pragma unroll
        for (int kk = 0; kk < C::kHalfD / 16; ++kk)
          wgmma(e[tile], wgmma_operand(shared_.means[tile][half], 0) + kk * kNextAlongRow,
                wgmma_operand(team_.q[stage][half], 0) + kk * kNextAlongRow, half + kk > 0);
      if (tile % C::kBatchTiles == C::kBatchTiles - 1) wgmma_commit();
    }

    // From the lane's first row on. Up to 16 tokens differ by one block at most, 32 by two: the incomplete blocks are
    // in the last C::kTileStep tiles.
    const int before = (C::kDocuments ? first_ : 0) + warp_ * 16 + (lane_ >> 2);
    const int complete = ((t + 1) >> a_.in.block_shift) - before;
    const int one_more = a_.in.block_size - ((t + 1) & (a_.in.block_size - 1));  // the first token with one block more
    const auto exists = [&](int tile) {
      return kRowMax || tile <= kTiles - C::kTileStep || (C::kTileStep == 2 ? tiles == kTiles : tile < tiles);
    };
    const auto is_complete = [&](int tile, int n, int e) {
      const int row = tile * C::kTile + e / 2 * 8, token = (C::kHeads < 8 ? column(n, e & 1) : n * 8) / C::kHeads;
      // For 8 tokens either is right; this one spills no registers.
      if constexpr (C::kTokens > 16 || C::kTokens == 8) return row < ((t + token + 1) >> a_.in.block_shift) - before;
      return row < complete + (token >= one_more);
    };
    [[maybe_unused]] OfColumns shift;
    OfColumns sum = {};
    if constexpr (kRowMax) {
      wgmma_wait<0>();
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) warpgroup_fence_operand(e[tile]);
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float row_max = -kInfinity;
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
            for (int upper = 0; upper < 4; upper += 2)
              if (is_complete(tile, n, upper)) row_max = fmaxf(row_max, e[tile][n][upper + c]);
#pragma unroll
          for (int offset = 4; offset < kWarpSize; offset *= 2)
            row_max = fmaxf(row_max, __shfl_xor_sync(kFullMask, row_max, offset));
          shift[n][c] = row_max == -kInfinity ? 0.0f : __fmul_rn(row_max, scale2_);
        }
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if constexpr (!kRowMax) {
        if (tile % C::kBatchTiles == 0) wgmma_wait_unrolled((kTiles - 1 - tile) / C::kBatchTiles);
        warpgroup_fence_operand(e[tile]);
      }
      if (exists(tile))
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            float value = exp2_fast(kRowMax ? e[tile][n][j] * scale2_ - shift[n][j & 1] : e[tile][n][j] * scale2_);
            if ((kRowMax || tile >= kTiles - C::kTileStep) && !is_complete(tile, n, j)) value = 0;
            sum[n][j & 1] += value;
            e[tile][n][j] = value;
          }
    }

    OfColumns weight;
    if constexpr (kRowMax)
      find_weights(weight, shift, sum);
    else if (!find_weights(weight, t, sum))
      return false;

#pragma unroll
    for (int part = 0; part < C::kStepSlots; ++part) {
      const int use = i * C::kStepSlots + part, slot = use % C::kSlots;
      team_.chosen[slot].wait(use / C::kSlots & 1 ^ 1);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        if (exists(tile)) store_importance(slot, part, tile * C::kTile + warp_ * 16 + (lane_ >> 2), e[tile], weight);
      team_.scored[slot].arrive_warp(lane_);
    }
    return true;
  }

  /// Adds up the values of the lanes with the same columns, for the columns of one set: lane l gets the sum for column
  /// n c of its quad's columns in the set, with 2 n + c = l / 4, modulo the number of values.
  __device__ __forceinline__ float sum_of_column(const OfColumns& values, int set) const {
    constexpr int kValues = 2 * kColumnTiles / kSets;
    float sums[kValues];
#pragma unroll
    for (int j = 0; j < kValues; ++j) sums[j] = values[set * kColumnTiles / kSets + j / 2][j % 2];
#pragma unroll
    for (int half = kValues / 2; half > 0; half /= 2) {
      const bool upper = lane_ & 4 * half;
#pragma unroll
      for (int j = 0; j < half; ++j) {
        const float other = __shfl_xor_sync(kFullMask, upper ? sums[j] : sums[half + j], 4 * half);
        sums[j] = (upper ? sums[half + j] : sums[j]) + other;
      }
    }
    if constexpr (kValues == 4) sums[0] += __shfl_xor_sync(kFullMask, sums[0], 16);
    return sums[0];
  }
  /// The place of sum_of_column's column in its set.
  __device__ __forceinline__ int own_column() const {
    return (C::kColumns >= 32 ? lane_ >> 3 : lane_ >> 3 & 1) * 8 + (lane_ & 3) * 2 + (lane_ >> 2 & 1);
  }
  /// The column of a set that a lane adds the warps' sums of.
  __device__ __forceinline__ int step_column(int set) const {
    return set * kWarpSize + (C::kColumns >= 32 ? lane_ : lane_ % C::kColumns);
  }
  /// The column of a lane's n c-th values.
  __device__ __forceinline__ int column(int n, int c) const { return n * 8 + (lane_ & 3) * 2 + c; }

  /// What an exponential of a column has to be multiplied by to be the softmax: 0 for heads that the group does not
  /// have. False if a sum over the warps is too large or too small. The lanes have sums over their own rows.
  __device__ __forceinline__ bool find_weights(OfColumns& weight, int t, const OfColumns& sum) {
    auto& sums = team_.sums[exchanges_++ & 1];
#pragma unroll
    for (int set = 0; set < kSets; ++set) sums[warp_][set * kWarpSize + own_column()] = sum_of_column(sum, set);
    barrier_sync(1 + task_.team, kWarpgroupThreads);
    bool exact = true;
#pragma unroll
    for (int set = 0; set < kSets; ++set) {
      float total = 0;
#pragma unroll
      for (int w = 0; w < C::kWarps; ++w) total += sums[w][step_column(set)];
      const bool needed = lane_ % C::kHeads < a_.in.HQ / a_.in.HK &&
                          (t + step_column(set) / C::kHeads + 1) >> a_.in.block_shift > (C::kDocuments ? first_ : 0);
      const float inverse = needed ? __fdividef(1.0f, total) : 0.0f;
      set_columns(weight, set, inverse);
      exact = exact && total < kLargestSum && !(needed && total < 1 / kLargestSum);
    }
    return __all_sync(kFullMask, exact);  // equal in all warps
  }

  /// The same for exponentials relative to `shift`, which differ by warp.
  __device__ __forceinline__ void find_weights(OfColumns& weight, const OfColumns& shift, const OfColumns& sum) {
    auto& log2_sums = team_.sums[exchanges_++ & 1];
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float all = sum[n][c];
#pragma unroll
        for (int offset = 4; offset < kWarpSize; offset *= 2) all += __shfl_xor_sync(kFullMask, all, offset);
        if (lane_ < 4) log2_sums[warp_][column(n, c)] = shift[n][c] + __log2f(all);
      }
    barrier_sync(1 + task_.team, kWarpgroupThreads);
#pragma unroll
    for (int set = 0; set < kSets; ++set) {
      float highest = -kInfinity, total = 0;
#pragma unroll
      for (int w = 0; w < C::kWarps; ++w) highest = fmaxf(highest, log2_sums[w][step_column(set)]);
#pragma unroll
      for (int w = 0; w < C::kWarps; ++w) total += exp2_fast(log2_sums[w][step_column(set)] - highest);
      const bool needed = lane_ % C::kHeads < a_.in.HQ / a_.in.HK && highest > -kInfinity;
      set_columns(weight, set, needed ? highest + __log2f(total) : kInfinity);
    }
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) weight[n][c] = exp2_fast(shift[n][c] - weight[n][c]);
  }

  /// Sets a lane's values for the columns of a set. The value for each of them is given by the lane that step_column
  /// assigns it to.
  __device__ __forceinline__ void set_columns(OfColumns& to, int set, float value) const {
#pragma unroll
    for (int n = set * kColumnTiles / kSets; n < (set + 1) * kColumnTiles / kSets; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) to[n][c] = __shfl_sync(kFullMask, value, column(n, c) % kWarpSize);
  }

  /// importance = sum over a token's heads of the softmax, in a fixed order, of rows `block` and block + 8, for the
  /// tokens of the step's slot `part`.
  __device__ __forceinline__ void store_importance(int slot, int part, int block, const ScoreTile& e,
                                                   const OfColumns& weight) {
    if constexpr (C::kHeads < 8)
      store_importance_of_few_heads(&team_.importance[slot][0][block], part, e, weight);
    else
      store_importance_of_many_heads(&team_.importance[slot][0][block], e, weight);
  }

  /// A token's heads are columns of one lane or of two adjacent ones.
  __device__ __forceinline__ void store_importance_of_few_heads(float* to, int part, const ScoreTile& e,
                                                                const OfColumns& weight) {
    constexpr int kParts = C::kStepSlots, kStride = C::kImportanceStride;
    const int quad_lane = lane_ & 3;
#pragma unroll
    for (int n = 0; n < kColumnTiles / kParts; ++n) {
      const float(&from)[4] = e[part * kColumnTiles / kParts + n];
      const float(&by)[2] = weight[part * kColumnTiles / kParts + n];
      float values[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) values[j] = __fmul_rn(from[j], by[j & 1]);
      if constexpr (C::kHeads == 1) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          to[(n * 8 + quad_lane * 2 + (j & 1)) * kStride + j / 2 * 8] = fmaxf(values[j], 0.0f);  // NaN becomes 0
      } else {
        const float upper = fmaf(from[1], by[1], values[0]), lower = fmaf(from[3], by[1], values[2]);
        if constexpr (C::kHeads == 2) {
          float* at = to + (n * 4 + quad_lane) * kStride;
          at[0] = fmaxf(upper, 0.0f);
          at[8] = fmaxf(lower, 0.0f);
        } else {  // odd lanes get the lower rows
          const bool odd = quad_lane & 1;
          const float all = (odd ? lower : upper) + __shfl_xor_sync(kFullMask, odd ? upper : lower, 1);
          to[(n * 2 + quad_lane / 2) * kStride + (odd ? 8 : 0)] = fmaxf(all, 0.0f);
        }
      }
    }
  }

  /// A token's heads are columns of all lanes of a quad.
  __device__ __forceinline__ void store_importance_of_many_heads(float* to, const ScoreTile& e,
                                                                 const OfColumns& weight) {
    float sums[C::kTokens][2] = {};
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[n * 8 / C::kHeads][j / 2] += e[n][j] * weight[n][j & 1];
    // Over the quad: odd lanes get the lower rows, lanes 2 and 3 the second half of the tokens.
    const bool odd = lane_ & 1, second = lane_ & 2;
    float both[C::kTokens];
#pragma unroll
    for (int token = 0; token < C::kTokens; ++token)
      both[token] = (odd ? sums[token][1] : sums[token][0]) +
                    __shfl_xor_sync(kFullMask, odd ? sums[token][0] : sums[token][1], 1);
    to += odd ? 8 : 0;
    if constexpr (C::kTokens == 1) {
      const float all = both[0] + __shfl_xor_sync(kFullMask, both[0], 2);
      if (!second) to[0] = fmaxf(all, 0.0f);  // NaN becomes 0
    } else {
      constexpr int kHalf = C::kTokens / 2;
      to += second ? kHalf * C::kImportanceStride : 0;
#pragma unroll
      for (int token = 0; token < kHalf; ++token) {
        const float other = __shfl_xor_sync(kFullMask, second ? both[token] : both[kHalf + token], 2);
        to[token * C::kImportanceStride] = fmaxf((second ? both[kHalf + token] : both[token]) + other, 0.0f);
      }
    }
  }

  typename C::Shared& shared_;
  typename C::Team& team_;
  const SelectHopperArgs& a_;
  const SelectHopperTask<C>& task_;
  const int warp_, lane_;
  const float scale2_;
  int exchanges_ = 0;
  int first_ = 0;  ///< first block of the document piece, from which on blocks are counted
};

/// The calling warp's part of a choosing warpgroup: the tokens of one slot, or a part of them.
template <class C>
class SelectHopperChooser {
 public:
  __device__ __forceinline__ SelectHopperChooser(typename C::Shared& shared, const SelectArgs& a,
                                                 const SelectHopperTask<C>& task)
      : team_(shared.team[task.team]),
        a_(a),
        task_(task),
        list_(shared.list(task.team * C::kWarps + task.warp, a.list_capacity)),
        candidates_(team_.candidates[task.warp]) {}

  __device__ __forceinline__ void run() {
    const int slot = task_.warp % C::kSlots;
    const int uses = (task_.steps - task_.team + C::kTeams - 1) / C::kTeams * C::kStepSlots;  // of all slots
#pragma unroll 1
    for (int use = slot; use < uses; use += C::kSlots) {
      const int step = task_.team + use / C::kStepSlots * C::kTeams;
      const int t = task_.t0 + step * C::kTokens + use % C::kStepSlots * C::kSlotTokens;
      team_.scored[slot].wait(use / C::kSlots & 1);
      if constexpr (C::kRows)
        choose_at_once(slot, t);
      else
        choose_in_turn(slot, t);
      team_.chosen[slot].arrive_warp(task_.lane);
    }
  }

 private:
  /// What a token chooses from. In reference mode it chooses separately from the newest aligned block_size blocks.
  struct Token {
    int first, own, newest, quota;  ///< blocks before `newest` to choose: quota
    bool split;
    int* to;

    __device__ __forceinline__ Token(const SelectArgs& a, const SelectHopperTask<C>& task, int t)
        : first(C::kDocuments ? a.first_block(task.row, t) : 0),
          own((t >> a.block_shift) - first),
          split(a.reference && own >= a.block_size && a.block_counts > a.block_size / 2),
          to(a.indices + ((static_cast<std::int64_t>(task.row) * a.T + t) * a.HK + task.kv_head) * a.slots) {
      newest = split ? own >> a.block_shift << a.block_shift : own;
      quota = split ? a.block_size / 2 : a.block_counts - 1;
    }
  };

  /// The warp's part of the tokens of a slot, which begin at t0, one after the other.
  __device__ __forceinline__ void choose_in_turn(int slot, int t0) {
#pragma unroll 1
    for (int token = task_.warp / C::kSlots; token < C::kSlotTokens; token += C::kSlotWarps) {
      if (t0 + token >= a_.T) break;
      choose_for(t0 + token, team_.importance[slot][token]);
    }
  }

  __device__ __forceinline__ void choose_for(int t, const float* importance) {
    const Token x(a_, task_, t);
    int begin = 0, end = x.newest, quota = x.quota, length = 0;
#pragma unroll 1
    while (true) {
      length += choose_blocks<C::kMaxBlocks, C::kRows>(x.to + length, importance, begin, end, quota, list_, candidates_,
                                                       task_.lane, x.first);
      if (end == x.own) break;
      begin = x.newest, end = x.own, quota = a_.block_size / 2 - 1;
    }
    for (int s = length + task_.lane; s < a_.slots; s += kWarpSize) x.to[s] = s == length ? x.first + x.own : -1;
  }

  /// The same at once, in rows of lanes.
  __device__ __forceinline__ void choose_at_once(int slot, int t0) {
    const int first_token = task_.warp / C::kSlots * C::kWarpTokens;
    const int t = t0 + first_token + task_.lane / RowChoice::kLanes;
    bool done = true;
    {
      int lane = task_.lane;
      asm volatile("" : "+r"(lane));  // what follows from it is computed again for each slot, not kept in registers
      const RowChoice choice = {team_.importance[slot][first_token], C::kImportanceStride, candidates_, lane};
      const bool exists = t < a_.T;
      const Token x(a_, task_, exists ? t : a_.T - 1);
      RowChoice::Row row = {x.to, 0, exists ? x.newest : 0, x.quota, x.first};
      int length = 0, ranges = __any_sync(kFullMask, x.split) ? 2 : 1;
#pragma unroll 1
      do {
        done = choice.choose<C::kMaxBlocks>(row) && done;
        length += row.length();
        const int begin = exists && x.split ? x.newest : 0;  // else not a multiple of 4
        row = {x.to + length, begin, exists && x.split ? x.own - begin : 0, a_.block_size / 2 - 1, x.first + begin};
      } while (--ranges > 0);
      if (exists && done)
        for (int s = length + task_.lane % RowChoice::kLanes; s < a_.slots; s += RowChoice::kLanes)
          x.to[s] = s == length ? x.first + x.own : -1;
    }
    __syncwarp();
    // The other tokens, and what was written for them, again.
    unsigned left = __ballot_sync(kFullMask, !done);
#pragma unroll 1
    while (left) {
      const int row = (__ffs(static_cast<int>(left)) - 1) / RowChoice::kLanes;
      left &= ~(0xffu << row * RowChoice::kLanes);
      choose_for(t0 + first_token + row, team_.importance[slot][first_token + row]);
    }
  }

  typename C::Team& team_;
  const SelectArgs& a_;
  const SelectHopperTask<C>& task_;
  const BlockList list_;
  int2* const candidates_;
};
#endif

/// What a CTA does: see SelectHopperTask.
template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kCtasPerSm)
    select_blocks_hopper_kernel(const __grid_constant__ SelectHopperArgs a) {
#if SSA_WGMMA_CODE
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  const SelectHopperTask<C> task(a.in, a.t_end);
  if (threadIdx.x == 0) {
    shared.means_full.init(1);
    for (auto& team : shared.team) {
      for (auto& barrier : team.q_full) barrier.init(1);
      for (auto& barrier : team.scored) barrier.init(C::kWarps * kArrivalsOfWarp);
      for (auto& barrier : team.chosen) barrier.init(C::kSlotWarps * kArrivalsOfWarp);
    }
    fence_barrier_init();
  }
  __syncthreads();
  let_next_kernel_start();
  if (threadIdx.x < C::kTeams * kWarpgroupThreads) {
    warpgroup_reg_alloc<C::kScoringRegisters>();
    SelectHopperScorer<C>(shared, a, task).run();
  } else {
    warpgroup_reg_dealloc<C::kChoosingRegisters>();
    SelectHopperChooser<C>(shared, a.in, task).run();
  }
  end_after_previous_kernel();
#endif
}

}  // namespace ssa::cuda
