// Floating-point operations of a training step, for the speeds that metrics.jsonl reports. A multiply-add counts as
// two.
//
//   model     6 x (weights of all matrices, the LM head counted once even when it is the embedding; embedding lookups
//             count as 0) + 3 x 4 x T/2 x HQ x D x L, full causal attention forward and twice that backward.
//             The same for every method and checkpointing mode, so that their speeds are comparable.
//   executed  what the configured method computes: its own keys, its block scores, both streams of ssa, and what
//             gradient_checkpointing recomputes. An attention backward is 5 products (scores again, dP, dV, dK, dQ);
//             products that a kernel's schedule computes twice, and everything but products, are not counted.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "ssa/model/model_config.h"

namespace ssa {

/// Keys that a token attends to in each branch, and the complete blocks it selects from: means over the positions of a
/// sequence of `tokens` tokens. Selection counts as exact: block_counts blocks, the token's own included, or all.
struct MeanKeys {
  double causal = 0, selected = 0, window = 0, complete_blocks = 0;
};
MeanKeys mean_keys(const ModelConfig& config, std::int64_t tokens);

/// Parameters used in matmuls (embedding lookup excluded).
std::int64_t matmul_parameters(const ModelConfig& config);

/// Model FLOPs per token in sequences of `tokens` tokens, forward and backward.
double model_flops_per_token(const ModelConfig& config, std::int64_t tokens);

/// Executed FLOPs per token.
double executed_flops_per_token(const ModelConfig& config, std::int64_t tokens, Method method,
                                GradientCheckpointing checkpointing);

/// The sequence length in tokens from which a method without full attention trains faster than full attention; nullopt
/// for `full` and `ssa`. A measured rule for one H200 and ssa-1b's heads (`ssa_bench --only lengths_attention` prints
/// these lengths; random selections, forward and backward): 1701 tokens with 256 selected keys, 4257 with a window of
/// 512 and nsa's compressed branch as well. Full attention has T/2 keys per token, these methods a fixed number; the
/// length is assumed to grow in proportion to it:
///
///   moba  1701 / 256 x block_size x block_counts
///   nsa   4257 / 768 x (block_size x block_counts + window_size)
std::optional<std::int64_t> sparse_crossover_tokens(const ModelConfig& config, Method method);

/// Peak dense bf16 FLOP/s from the data sheet; nullopt for an unknown GPU.
std::optional<double> peak_bf16_flops(const std::string& device_name);

}  // namespace ssa
