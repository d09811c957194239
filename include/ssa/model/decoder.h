// Decoder: next-token logits from a key/value cache, in every attention path. A prompt runs through the training
// forward, row by row, which leaves its keys, values and their block means in the cache; then each step takes one token
// a row. The logits are those of a forward pass over all the tokens so far: a block becomes selectable (and visible to
// nsa's compressed branch) when its last token has come, and a token's own block always takes part.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ssa/model/llama.h"

namespace ssa {

struct DecoderShape {
  std::int64_t rows = 1;  ///< sequences decoded side by side
  std::int64_t capacity;  ///< tokens a row holds at most, prompt included
  std::int64_t prompt;    ///< tokens of the longest prompt
  AttentionPath path;     ///< full, selected or nsa
  BlockSelection selection = BlockSelection::exact;
};

/// What a layer keeps of the tokens so far; C = capacity. Means are there where the path reads them.
struct LayerCache {
  Tensor k, v;            ///< [B, C, HK, D] act
  Tensor k_mean, v_mean;  ///< [B, N, HK, D] act, N = ceil(C / block_size); of complete blocks
};

/// Working tensors of a step: one token a row. Names as in LayerActivations.
struct StepActivations {
  Tensor ids, positions;                           ///< [B] i32, [B, 1] i32
  Tensor x, norm, rstd, residual_delta;            ///< [B, H], [B, H], [B] f32, [B, H]
  Tensor qkvg;                                     ///< [B, (HQ + 2 HK) D + 3 HQ]
  Tensor q, k, v, gates, indices;                  ///< [B, 1, ...]
  Tensor selected, compressed, window, attention;  ///< [B, 1, HQ, D]; `selected` is full attention on path full
  Tensor gate_up, swiglu;                          ///< [B, 2 F], [B, F]
  Tensor logits;                                   ///< [B, V] f32
};

class Decoder {
 public:
  /// `weights` must outlive the decoder. Throws Error when the device has too little memory.
  Decoder(Stream& stream, const ModelConfig& config, const ModelParams& weights, const DecoderShape& shape);

  /// Row `row` starts anew with these tokens, at least one. The logits behind the last of them, [V].
  std::vector<float> prefill(std::int64_t row, std::span<const std::int32_t> ids);

  /// One more token for each row; a row with -1 takes no part. The logits behind it, [rows, V]; what a row that took no
  /// part has there means nothing. A row must have begun with a prompt and have room.
  std::vector<float> step(std::span<const std::int32_t> ids);

  /// Tokens that row `row` holds.
  std::int64_t length(std::int64_t row) const { return lengths_.at(static_cast<std::size_t>(row)); }
  const DecoderShape& shape() const { return shape_; }
  const ModelConfig& config() const { return config_; }

 private:
  void lay_out(Arena& arena);
  void step_layer(const LayerParams& weights, const LayerCache& cache);
  std::vector<float> logits(const Tensor& hidden);

  Stream& stream_;
  ModelConfig config_;
  ModelParams weights_;
  DecoderShape shape_;
  std::vector<std::int64_t> lengths_;
  Buffer memory_, prompt_memory_;
  std::vector<LayerCache> cache_;
  StepActivations step_;
  Tensor prompt_ids_, counting_;  ///< [prompt] i32; [prompt] i32: 0, 1, 2 ...
  Tensor cos_sin_;                ///< [C, D/2, 2] f32
};

}  // namespace ssa
