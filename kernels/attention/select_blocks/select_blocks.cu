#include "select_blocks.cuh"

#include <algorithm>
#include <bit>

#include "kernels/attention/dispatch.cuh"
#include "kernels/common/device/launch.cuh"
#include "select_blocks.h"
#include "select_blocks_decode.cuh"
#include "select_blocks_hopper.cuh"

namespace ssa::cuda {

void select_blocks(Stream& stream, const SelectBlocks& p) {
  constexpr auto op = "select_blocks";
  const std::int64_t B = p.q.dim(0), D = p.q.dim(3), N = p.k_mean.dim(1), slots = p.indices.dim(3);
  const SelectArgs a = {.indices = p.indices.as<std::int32_t>(),
                        .q = bf16(p.q),
                        .k_mean = bf16(p.k_mean),
                        .B = static_cast<int>(B),
                        .T = static_cast<int>(p.q.dim(1)),
                        .N = static_cast<int>(N),
                        .HQ = static_cast<int>(p.q.dim(2)),
                        .HK = static_cast<int>(p.k_mean.dim(2)),
                        .slots = static_cast<int>(slots),
                        .block_size = static_cast<int>(p.block_size),
                        .block_counts = static_cast<int>(p.block_counts),
                        .block_shift = std::countr_zero(static_cast<unsigned>(p.block_size)),
                        .list_capacity = static_cast<int>(std::min(slots, N)),
                        .reference = p.mode == BlockSelection::reference,
                        .scale = p.scale,
                        .begin = p.documents.begin.as_or_null<std::int32_t>()};
  const int G = a.HQ / a.HK;
  dispatch_head_dim(op, D, G, p.block_size, [&]<int kD>() {
    if (p.positions) {
      launch(stream, op, select_blocks_decode_kernel<kD>,
             {.grid = dim3(static_cast<unsigned>(a.HK), static_cast<unsigned>(a.T), static_cast<unsigned>(B)),
              .block = kDecodeThreads,
              .shared_bytes = decode_shared_bytes(N)},
             a, p.positions.as<std::int32_t>());
      return;
    }
    const auto run_form = [&]<int kHeads, bool kDocuments>() {
      if constexpr (kD == 64) {
        using H = SelectHopperConfig<kD, kHeads, kDocuments>;
        if (has_wgmma(stream) && N <= H::kMaxBlocks) {
          const SelectHopperArgs h = {.q = tensor_map_heads(op, a.q, B, a.T, a.HQ, kD, H::kHeads, H::kColumns),
                                      .k_mean = tensor_map(op, a.k_mean, B, N, a.HK * H::kHalves),
                                      .in = a};
          launch(stream, op, select_blocks_hopper_kernel<H>,
                 {.grid = ctas_for(a.T, H::kCtaTokens) * static_cast<unsigned>(a.HK * a.B),
                  .block = H::kThreads,
                  .shared_bytes = H::Shared::bytes(static_cast<std::size_t>(a.list_capacity))},
                 h);
          return;
        }
      }
      using C = SelectConfig<kD, kHeads, kDocuments>;
      launch(stream, op, select_blocks_kernel<C>,
             {.grid = dim3(ctas_for(a.T, C::kCtaTokens), static_cast<unsigned>(a.HK), static_cast<unsigned>(B)),
              .block = C::kThreads,
              .shared_bytes = C::Shared::bytes(static_cast<std::size_t>(a.list_capacity))},
             a);
    };
    const auto run = [&]<int kHeads>() {
      a.begin ? run_form.template operator()<kHeads, true>() : run_form.template operator()<kHeads, false>();
    };
    if (G <= 8)
      run.template operator()<8>();
    else if (G <= 16)
      run.template operator()<16>();
    else
      run.template operator()<32>();
  });
}

}  // namespace ssa::cuda
