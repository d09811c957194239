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

/// CTAs of the Hopper form C for the tokens of [t_begin, t_end).
template <class C>
unsigned hopper_ctas(const SelectArgs& a, int t_begin, int t_end) {
  return ctas_for(t_end - t_begin, C::kCtaTokens) * static_cast<unsigned>(a.HK * a.B);
}

/// The Hopper form C can choose for the tokens of [t_begin, result): those with few enough blocks, or none if it needs
/// more shared memory than the GPU has.
template <class C>
int hopper_end(Stream& stream, const SelectArgs& a, int t_begin) {
  const std::size_t shared_bytes = C::Shared::bytes(static_cast<std::size_t>(a.list_capacity));
  if (shared_bytes > stream.cuda().properties.sharedMemPerBlockOptin) return t_begin;
  return std::max(t_begin, std::min(a.T, C::kMaxBlocks << a.block_shift));
}

/// The Hopper form C chooses for the tokens of [t_begin, t_end).
template <class C>
void launch_hopper(Stream& stream, const SelectArgs& a, int t_begin, int t_end, bool overlaps) {
  if (t_begin == t_end) return;
  const SelectHopperArgs h = {.q = tensor_map_heads(op, a.q, a.B, a.T, a.HQ, C::kD, C::kHeads, C::kColumns),
                              .k_mean = tensor_map(op, a.k_mean, a.B, a.N, a.HK * C::kHalves),
                              .in = a,
                              .t_end = t_end};
  launch(stream, op, select_blocks_hopper_kernel<C>,
         {.grid = hopper_ctas<C>(a, t_begin, t_end),
          .block = C::kThreads,
          .shared_bytes = C::Shared::bytes(static_cast<std::size_t>(a.list_capacity)),
          .overlaps = overlaps},
         h);
}

/// The Hopper forms choose for the tokens with few enough blocks. Returns the first one of the others.
template <int kD, int kHeads, bool kDocuments>
int select_on_hopper(Stream& stream, const SelectArgs& a) {
  using Short = SelectHopperConfig<64, kHeads, kDocuments, 64>;
  using Middle = SelectHopperConfig<kD, kHeads, kDocuments, 32>;
  using Long = SelectHopperConfig<64, std::max(kHeads, 2), kDocuments, 16>;
  constexpr bool kHasShort = kD == 64 && (kHeads == 8 || kHeads == 16), kHasLong = kD == 64 && kHeads <= 16;
  // With other groups, or with fewer CTAs than twice as many as the GPU runs at once, 32 columns are used from the
  // first token on.
  int short_end = 0;
  if constexpr (kHasShort) {
    const int end = hopper_end<Short>(stream, a, 0);
    const auto resident = static_cast<unsigned>(stream.cuda().properties.multiProcessorCount * Short::kCtasPerSm);
    if (hopper_ctas<Short>(a, 0, end) >= 2 * resident) short_end = end;
  }
  const int middle_end = hopper_end<Middle>(stream, a, short_end);
  int long_end = middle_end;
  if constexpr (kHasLong) long_end = hopper_end<Long>(stream, a, middle_end);

  // The CTAs for the most blocks take longest, so they start first. Each form overlaps with the one before it.
  if constexpr (kHasLong) launch_hopper<Long>(stream, a, middle_end, long_end, false);
  launch_hopper<Middle>(stream, a, short_end, middle_end, middle_end < long_end);
  if constexpr (kHasShort) launch_hopper<Short>(stream, a, 0, short_end, short_end < long_end);
  return long_end;
}

}  // namespace

std::size_t scratch_bytes(const SelectBlocks& p) {
  if (!p.positions) return 0;
  const DecodeScratch bytes(p);
  return bytes.tiles + bytes.scores;
}

void select_blocks(Stream& stream, const SelectBlocks& p) {
  const std::int64_t B = p.q.dim(0), D = p.q.dim(3);
  const SelectArgs a = select_args(p);
  const int G = a.HQ / a.HK;
  dispatch_head_dim(op, D, G, p.block_size, [&]<int kD>() {
    if (p.positions) return select_at_positions<kD>(stream, p, a);
    const auto run_form = [&]<int kHeads, bool kDocuments>() {
      SelectArgs rest = a;
      if constexpr (kD == 64 || kHeads >= 8)
        if (has_wgmma(stream)) {
          rest.t_begin = select_on_hopper<kD, kHeads, kDocuments>(stream, a);
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
