// Decoder: next-token logits from a key/value cache, in every attention path without alignment. A prompt runs through
// the training forward, one sequence at a time, and leaves its keys, values and block means in the cache. Each later
// step takes one token per sequence. The logits equal a forward pass over all tokens so far: a block becomes
// selectable, and visible to nsa's compressed branch, when it is complete; a token's own block is always selected.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ssa/model/llama.h"

namespace ssa {

struct DecoderShape {
  std::int64_t rows = 1;  ///< sequences decoded together
  std::int64_t capacity;  ///< most tokens per sequence, prompt included
  std::int64_t prompt;    ///< tokens of the longest prompt
  AttentionPath path;     ///< any path but the aligned one, which has two outputs
  BlockSelection selection = BlockSelection::exact;
};

/// Working tensors of a step of one token per sequence. Names as in LayerActivations.
struct StepActivations {
  Tensor tokens;                        ///< [2, B] i32: ids and positions
  Tensor ids, positions;                ///< [B], [B, 1]: parts of it
  Tensor x;                             ///< [B, H]: the residual stream
  Tensor qkvg;                          ///< [B, (HQ + 2 HK) D + 3 HQ]
  Tensor q, gates, indices;             ///< [B, 1, ...]
  Tensor selected, compressed, window;  ///< [B, 1, HQ, D]: branches before their gates, if there are several
  Tensor attention;                     ///< [B, 1, HQ, D]
  Tensor swiglu;                        ///< [B, F]
  Tensor logits;                        ///< [B, V] f32, in host memory for few sequences
};

class Decoder {
 public:
  /// `weights` must outlive the decoder. Throws Error when the device has too little memory.
  Decoder(Stream& stream, const ModelConfig& config, const ModelParams& weights, const DecoderShape& shape);
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  /// Restarts sequence `row` with these tokens, at least one. Returns the logits after the last of them, [V], valid
  /// until the next call.
  std::span<const float> prefill(std::int64_t row, std::span<const std::int32_t> ids);

  /// Appends one token to each sequence, except where the id is -1. Returns the logits after it, [rows, V],
  /// which are undefined for a sequence with -1, and valid until the next call. A sequence must have a prompt, and
  /// room.
  std::span<const float> step(std::span<const std::int32_t> ids);

  /// Tokens in sequence `row`.
  std::int64_t length(std::int64_t row) const { return lengths_.at(static_cast<std::size_t>(row)); }
  const DecoderShape& shape() const { return shape_; }
  const ModelConfig& config() const { return config_; }

 private:
  void lay_out(Arena& arena);
  /// Appends the tokens of step_.ids at step_.positions and leaves the logits in step_.logits.
  void run_step(Stream& stream) const;
  void step_layer(Stream& stream, const LayerParams& weights, const KeyValues& cache) const;
  KvPlacement prompt_placement(std::int64_t row, std::int64_t tokens) const;
  void queue_step();
  void copy_logits(const Tensor& logits);
  std::span<const float> synchronized_logits(const Tensor& logits);

  Stream& stream_;
  ModelConfig config_;
  ModelParams weights_;
  DecoderShape shape_;
  std::vector<std::int64_t> lengths_;
  Buffer memory_, prompt_memory_;
  Buffer host_tokens_, host_logits_;                  ///< [2, rows] i32: ids and positions of a step; [rows, V] f32
  std::shared_ptr<Stream::Recording> recorded_step_;  ///< made by the second step
  bool stepped_ = false;
  std::vector<KeyValues> cache_;  ///< per layer, [B, C, HK, D] and [B, N, HK, D]; C = capacity, N = its blocks
  StepActivations step_;
  Tensor prompt_ids_, prompt_positions_;  ///< [prompt] i32; [prompt] i32: 0, 1, 2 ...
  Tensor cos_sin_;                        ///< [C, D/2, 2] f32
};

}  // namespace ssa
