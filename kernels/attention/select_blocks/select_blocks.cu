#include "select_blocks.cuh"

#include "kernels/attention/dispatch.cuh"
#include "kernels/common/device/launch.cuh"
#include "select_blocks.h"
#include "select_blocks_cluster.cuh"
#include "select_blocks_decode.cuh"
#include "select_blocks_hopper.cuh"

namespace ssa::cuda {
namespace {

constexpr auto op = "select_blocks";

/// Bytes of DecodeScores' tensors. The tiles come first: they have the larger alignment.
struct DecodeScratch {
  std::size_t tiles, scores;

  explicit DecodeScratch(const SelectBlocks& p) {
    const std::int64_t heads = p.q.dim(0) * p.q.dim(1) * p.q.dim(2), N = p.k_mean.dim(1);
    tiles = static_cast<std::size_t>(heads * SelectDecodeConfig::tiles(N)) * sizeof(float2);
    scores = static_cast<std::size_t>(heads * N) * sizeof(float);
  }
};

template <int kD>
void select_at_positions(Stream& stream, const SelectBlocks& p, const SelectArgs& a) {
  const auto* positions = p.positions.as<std::int32_t>();
  const auto T = static_cast<unsigned>(a.T), B = static_cast<unsigned>(a.B), HK = static_cast<unsigned>(a.HK);
  if (const std::size_t shared_bytes = SelectClusterShared::bytes(a);
      chooses_in_cluster(stream, op, a, select_blocks_cluster_kernel<kD>, shared_bytes))
    return launch(stream, op, select_blocks_cluster_kernel<kD>,
                  {.grid = dim3(SelectClusterConfig::kCluster, HK * T, B),
                   .block = SelectClusterConfig::kThreads,
                   .shared_bytes = shared_bytes,
                   .cluster = SelectClusterConfig::kCluster,
                   .waits = true},
                  a, positions);
  using C = SelectDecodeConfig;
  const DecodeScratch bytes(p);
  auto* memory = static_cast<char*>(stream.scratch(bytes.tiles + bytes.scores));
  const DecodeScores scores = {.scores = reinterpret_cast<float*>(memory + bytes.tiles),
                               .tiles = reinterpret_cast<float2*>(memory)};
  const auto tiles = static_cast<unsigned>(C::tiles(a.N));
  launch(stream, op, score_blocks_decode_kernel<kD>,
         {.grid = dim3(tiles, HK * T, B), .block = C::kScoreThreads, .waits = true}, a, positions, scores);
  launch(stream, op, choose_blocks_decode_kernel,
         {.grid = dim3(HK * T, B), .block = C::kChooseThreads, .shared_bytes = ChooseShared::bytes(a.N), .waits = true},
         a, positions, scores, tiles);
}

}  // namespace

std::size_t scratch_bytes(const SelectBlocks& p) {
  if (!p.positions) return 0;
  const DecodeScratch bytes(p);
  return bytes.tiles + bytes.scores;
}

void select_blocks(Stream& stream, const SelectBlocks& p) {
  const std::int64_t B = p.q.dim(0), D = p.q.dim(3), N = p.k_mean.dim(1);
  const SelectArgs a = select_args(p);
  const int G = a.HQ / a.HK;
  dispatch_head_dim(op, D, G, p.block_size, [&]<int kD>() {
    if (p.positions) return select_at_positions<kD>(stream, p, a);
    // The Hopper form C chooses for the tokens from t_begin on that have few enough blocks for it. Returns the first
    // one of the others.
    const auto run_hopper = [&]<class C>(int t_begin) {
      const int t_end = std::min<std::int64_t>(a.T, std::int64_t{C::kMaxBlocks} << a.block_shift);
      const std::size_t shared_bytes = C::Shared::bytes(static_cast<std::size_t>(a.list_capacity));
      if (t_begin >= t_end || shared_bytes > stream.cuda().properties.sharedMemPerBlockOptin) return t_begin;
      const SelectHopperArgs h = {.q = tensor_map_heads(op, a.q, B, a.T, a.HQ, kD, C::kHeads, C::kColumns),
                                  .k_mean = tensor_map(op, a.k_mean, B, N, a.HK),
                                  .in = a,
                                  .t_end = t_end};
      launch(stream, op, select_blocks_hopper_kernel<C>,
             {.grid = ctas_for(t_end - t_begin, C::kCtaTokens) * static_cast<unsigned>(a.HK * a.B),
              .block = C::kThreads,
              .shared_bytes = shared_bytes},
             h);
      return t_end;
    };
    const auto run_form = [&]<int kHeads, bool kDocuments>() {
      SelectArgs rest = a;
      if constexpr (kD == 64)
        if (has_wgmma(stream)) {
          rest.t_begin = run_hopper.template operator()<SelectHopperConfig<kD, kHeads, kDocuments>>(0);
          if constexpr (kHeads <= 16)
            rest.t_begin =
                run_hopper.template operator()<SelectHopperConfig<kD, std::max(kHeads, 2), kDocuments, true>>(
                    rest.t_begin);
          if (rest.t_begin == a.T) return;
        }
      using C = SelectConfig<kD, std::max(kHeads, 8), kDocuments>;
      launch(stream, op, select_blocks_kernel<C>,
             {.grid = dim3(ctas_for(a.T - rest.t_begin, C::kCtaTokens), static_cast<unsigned>(a.HK),
                           static_cast<unsigned>(B)),
              .block = C::kThreads,
              .shared_bytes = C::Shared::bytes(static_cast<std::size_t>(a.list_capacity))},
             rest);
    };
    const auto run = [&]<int kHeads>() {
      // On Hopper, the tokens of a step are in one document piece: at most 16, with two heads or more.
      a.begin ? run_form.template operator()<std::max(kHeads, 2), true>()
              : run_form.template operator()<kHeads, false>();
    };
    if (G == 1)
      run.template operator()<1>();
    else if (G == 2)
      run.template operator()<2>();
    else if (G <= 4)
      run.template operator()<4>();
    else if (G <= 8)
      run.template operator()<8>();
    else if (G <= 16)
      run.template operator()<16>();
    else
      run.template operator()<32>();
  });
}

}  // namespace ssa::cuda
