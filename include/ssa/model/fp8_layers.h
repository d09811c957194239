// Which linear layers of a training pass compute their products in FP8, and whether the LM head does. docs/fp8.md says
// how.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/quantize_fp8/fp8_matrix.h"
#include "ssa/model/model_config.h"

namespace ssa {

enum class Fp8Mode {
  none,
  linear,  ///< the linear layers of every transformer layer
  all,     ///< those and the LM head
};

constexpr std::string_view name_of(Fp8Mode mode) {
  switch (mode) {
    case Fp8Mode::none: return "none";
    case Fp8Mode::linear: return "linear";
    case Fp8Mode::all: return "all";
  }
  return "?";
}

/// The products of a layer, each with one weight of LayerParams.
enum class LinearLayer { qkvg_proj, o_proj, gate_up_proj, down_proj };
inline constexpr std::initializer_list<LinearLayer> kLinearLayers = {LinearLayer::qkvg_proj, LinearLayer::o_proj,
                                                                     LinearLayer::gate_up_proj, LinearLayer::down_proj};

constexpr std::string_view name_of(LinearLayer layer) {
  switch (layer) {
    case LinearLayer::qkvg_proj: return "qkvg_proj";
    case LinearLayer::o_proj: return "o_proj";
    case LinearLayer::gate_up_proj: return "gate_up_proj";
    case LinearLayer::down_proj: return "down_proj";
  }
  return "?";
}

/// Columns and rows of a weight [outputs, inputs].
struct LinearWidths {
  std::int64_t inputs, outputs;
};
LinearWidths widths_of(LinearLayer layer, const ModelConfig& config);

/// train.fp8 and train.fp8_exclude, applied to a model.
class Fp8Layers {
 public:
  Fp8Layers() = default;  ///< none
  /// `exclude`: names that is_excludable accepts. They do not compute in FP8.
  Fp8Layers(const ModelConfig& config, Fp8Mode mode, const std::vector<std::string>& exclude);

  bool any() const;  ///< a linear layer or the head
  bool any_linear() const;
  /// Whether the layer computes its products in FP8.
  bool has(std::int64_t layer, LinearLayer which) const;
  bool has_any_of(std::int64_t layer) const;
  bool has_all_of(std::int64_t layer) const;
  bool has_in_any_layer(LinearLayer which) const;
  bool has_in_every_layer(LinearLayer which) const;
  bool has_lm_head() const { return lm_head_; }

 private:
  std::vector<bool> layers_;  ///< [L, 4]; empty: none
  bool lm_head_ = false;
};

/// Whether train.fp8_exclude may have this name: "lm_head", "o_proj", "layers.3" or "layers.3.o_proj".
bool is_excludable(const ModelConfig& config, const std::string& name);

/// All such names in words, for errors.
std::string excludable_names(const ModelConfig& config);

/// Whether SwiGLU and its backward write FP8 for the linear layer next to them: a block may not have columns of gate
/// and of up.
constexpr bool swiglu_writes_fp8(const ModelConfig& config) { return config.intermediate_size % kFp8Block == 0; }
/// Whether the gated output of the attention is written in FP8, plain and transposed. The kernels
/// need heads of whole vectors of 8 elements.
constexpr bool gates_write_fp8(const ModelConfig& config) { return config.head_dim % 8 == 0; }
/// Whether the backward of rotary embedding writes d_y of qkvg_proj in FP8. The kernel needs halves of
/// heads of whole vectors of 8 elements.
constexpr bool rope_writes_fp8(const ModelConfig& config) { return config.head_dim % 16 == 0; }
/// Whether a norm writes FP8 for the linear layer after it: it writes whole blocks.
constexpr bool norm_writes_fp8(const ModelConfig& config) { return config.hidden_size % kFp8Block == 0; }

/// Whether rows of the output may be padded, so that its width may be any number: those of q, k, v and gates.
constexpr bool pads_output(LinearLayer layer) { return layer == LinearLayer::qkvg_proj; }

/// Whether products of these widths exist in FP8: numbers of inputs, and of outputs without padded rows, are multiples
/// of 16.
bool has_fp8_products(LinearLayer layer, const ModelConfig& config);

/// The width that is no multiple of 16, as in "o_proj has 72 outputs"; empty if the layer has products in FP8.
std::string misfit_of(LinearLayer layer, const ModelConfig& config);

/// Why these layers do not compute in FP8 with passes of `tokens` tokens, on any device; empty if they do.
std::string why_unsupported(const Fp8Layers& layers, const ModelConfig& config, std::int64_t tokens);

}  // namespace ssa
