// The architecture, in the names of a Hugging Face config.json, and the attention method.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string_view>

namespace ssa {

enum class Method { ssa, full, moba, nsa };

/// Every method, in the order the documentation lists them.
inline constexpr std::initializer_list<Method> kMethods = {Method::ssa, Method::full, Method::moba, Method::nsa};

constexpr std::string_view name_of(Method method) {
  switch (method) {
    case Method::ssa: return "ssa";
    case Method::full: return "full";
    case Method::moba: return "moba";
    case Method::nsa: return "nsa";
  }
  return "?";
}

/// The outputs that ssa's alignment loss moves. With `both` the loss has two terms, SmoothL1(full, stop(sparse)) and
/// SmoothL1(stop(full), sparse); else it has the first or the second only.
enum class AlignedOutputs { both, full, sparse };

constexpr std::string_view name_of(AlignedOutputs outputs) {
  switch (outputs) {
    case AlignedOutputs::both: return "both";
    case AlignedOutputs::full: return "full";
    case AlignedOutputs::sparse: return "sparse";
  }
  return "?";
}

/// Which activations the backward pass recomputes instead of keeping them; activations.h has the table.
enum class GradientCheckpointing {
  none,       ///< keep all
  selective,  ///< recompute what is cheap: norm outputs, SwiGLU output, gated attention
  full,       ///< keep only each layer's input and recompute the layer
};

constexpr std::string_view name_of(GradientCheckpointing mode) {
  switch (mode) {
    case GradientCheckpointing::none: return "none";
    case GradientCheckpointing::selective: return "selective";
    case GradientCheckpointing::full: return "full";
  }
  return "?";
}

enum class RopeType { llama3 };

constexpr std::string_view name_of(RopeType) { return "llama3"; }

/// Frequency scaling of rotary embeddings; "llama3" (Llama 3.1) is the only type.
struct RopeScaling {
  double factor = 8.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  std::int64_t original_max_position_embeddings = 8192;
  RopeType rope_type = RopeType::llama3;
  bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  double rms_norm_eps = 1e-5;
  double rope_theta = 500000.0;
  std::optional<RopeScaling> rope_scaling;
  double initializer_range = 0.02;
  bool tie_word_embeddings = true;
  std::int64_t block_size = 16;
  std::int64_t block_counts = 16;
  std::int64_t window_size = 0;  ///< of the sliding-window branch; 0 = no such branch
  std::int64_t max_position_embeddings = 8192;
  std::optional<std::int64_t> bos_token_id = 0;  ///< nullopt: texts begin with no such token
  std::int64_t eos_token_id = 0;

  std::int64_t group() const { return num_attention_heads / num_key_value_heads; }
  std::int64_t q_width() const { return num_attention_heads * head_dim; }
  std::int64_t kv_width() const { return num_key_value_heads * head_dim; }
  /// Columns of the fused projection: q, k, v and three gate logits per head (qkv_rope.h).
  std::int64_t qkvg_width() const { return q_width() + 2 * kv_width() + 3 * num_attention_heads; }

  bool operator==(const ModelConfig&) const = default;
};

}  // namespace ssa
