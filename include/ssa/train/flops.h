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

/// The row length in tokens from which the attention of a method that never computes it in full trains faster than full
/// attention; nothing for `full` and `ssa`. A measured rule for one H200 and ssa-1b's heads (`ssa_bench --only
/// lengths_attention` prints these lengths; random selections, forward and backward): with 256 selected keys 1502
/// tokens, with a window of 512 and nsa's compressed branch besides 4321. Full attention has T/2 keys a token and these
/// a fixed number, in proportion to which the length is taken to grow:
///
///   moba  1502 / 256 x block_size x block_counts
///   nsa   4321 / 768 x (block_size x block_counts + window_size)
std::optional<std::int64_t> sparse_crossover_tokens(const ModelConfig& config, Method method);

/// Dense bf16 operations a second that the maker of the GPU states; nothing for a GPU that is not in the table.
std::optional<double> peak_bf16_flops(const std::string& device_name);

}  // namespace ssa
