// Floating-point operations of a training step, for the speeds that metrics.jsonl reports. A multiply-add counts as
// two.
//
//   model     6 x (weights of all matrices, the LM head counted once even when it is the embedding; looking embeddings
//             up costs nothing) + 3 x 4 x T/2 x HQ x D x L, full causal attention forward and twice that backward.
//             The same for every method and memory policy, so that speeds of methods compare.
//   executed  what the configured method computes: its own keys, its block scores, both streams of ssa, and what
//             gradient_checkpointing computes again. An attention backward is 5 products (scores again, dP, dV, dK,
//             dQ); products that a kernel's schedule does twice, and all that is not a product, are not counted.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "ssa/model/model_config.h"

namespace ssa {

/// Keys that a token attends in each way, and the complete blocks it chooses from: the mean over the positions of a row
/// of `tokens` tokens. Selection counts as exact: block_counts blocks, the own one among them, or all there are.
struct MeanKeys {
  double causal = 0, selected = 0, window = 0, complete_blocks = 0;
};
MeanKeys mean_keys(const ModelConfig& config, std::int64_t tokens);

/// Weights that a token is multiplied with.
std::int64_t matmul_parameters(const ModelConfig& config);

/// Of one token in rows of `tokens` tokens, forward and backward.
double model_flops_per_token(const ModelConfig& config, std::int64_t tokens);

/// The same, as executed.
double executed_flops_per_token(const ModelConfig& config, std::int64_t tokens, Method method,
                                GradientCheckpointing checkpointing);

/// The row length in tokens from which a method without full attention trains faster than full attention; nothing for
/// `full` and `ssa`, which compute full attention. A measured rule for one H200, ssa-1b's heads and blocks: choosing
/// blocks and attending the 256 selected keys, forward and backward, takes as long as full attention at 1676 tokens
/// (`ssa_bench --only lengths_attention` prints that length). Full attention has T/2 keys a token and the sparse one
/// block_size x block_counts, so the length grows with their number:
///
///   moba  1676 / 256 x block_size x block_counts
///   nsa   that + 2 x window_size: the window's keys at the price that full attention pays for a key, which is their
///         least, and the compressed branch for nothing. nsa is slower below, and may still be somewhat above.
std::optional<std::int64_t> sparse_crossover_tokens(const ModelConfig& config, Method method);

/// Dense bf16 operations a second that the maker of the GPU states; nothing for a GPU that is not in the table.
std::optional<double> peak_bf16_flops(const std::string& device_name);

}  // namespace ssa
