#include "ssa/model/fp8_layers.h"

#include <algorithm>
#include <charconv>

namespace ssa {
namespace {

/// What a name in train.fp8_exclude stands for.
struct Excluded {
  std::int64_t layer = -1;  ///< -1: every layer
  std::string_view which;   ///< empty: every linear layer
};

constexpr std::string_view kHead = "lm_head", kLayers = "layers.";

/// False if the name has another form, or names nothing that the model has.
bool parse(const ModelConfig& config, std::string_view name, Excluded& out) {
  if (name.starts_with(kLayers)) {
    name.remove_prefix(kLayers.size());
    const std::size_t digits = std::min(name.find('.'), name.size());
    std::from_chars(name.data(), name.data() + digits, out.layer);
    if (std::to_string(out.layer) != name.substr(0, digits)) return false;  // not "00" or "-0" either
    if (out.layer < 0 || out.layer >= config.num_hidden_layers) return false;
    if (digits == name.size()) return true;
    name.remove_prefix(digits + 1);
  }
  out.which = name;
  return std::any_of(kLinearLayers.begin(), kLinearLayers.end(), [&](LinearLayer l) { return name == name_of(l); });
}

}  // namespace

LinearWidths widths_of(LinearLayer layer, const ModelConfig& c) {
  switch (layer) {
    case LinearLayer::qkvg_proj: return {.inputs = c.hidden_size, .outputs = c.qkvg_width()};
    case LinearLayer::o_proj: return {.inputs = c.q_width(), .outputs = c.hidden_size};
    case LinearLayer::gate_up_proj: return {.inputs = c.hidden_size, .outputs = 2 * c.intermediate_size};
    case LinearLayer::down_proj: return {.inputs = c.intermediate_size, .outputs = c.hidden_size};
  }
  fail("unknown linear layer");
}

bool has_fp8_products(LinearLayer layer, const ModelConfig& config) {
  const auto [inputs, outputs] = widths_of(layer, config);
  return inputs % kFp8Alignment == 0 && (pads_output(layer) || outputs % kFp8Alignment == 0);
}

Fp8Layers::Fp8Layers(const ModelConfig& config, Fp8Mode mode, const std::vector<std::string>& exclude) {
  if (mode == Fp8Mode::none) return;
  layers_.assign(static_cast<std::size_t>(config.num_hidden_layers) * kLinearLayers.size(), true);
  lm_head_ = mode == Fp8Mode::all;
  for (const std::string& name : exclude) {
    if (name == kHead) {
      lm_head_ = false;
      continue;
    }
    Excluded excluded;
    SSA_CHECK(parse(config, name, excluded), "fp8_exclude: found ", name, ", expected ", excludable_names(config));
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const auto layer = static_cast<std::int64_t>(i / kLinearLayers.size());
      const LinearLayer which = kLinearLayers.begin()[i % kLinearLayers.size()];
      if ((excluded.layer < 0 || excluded.layer == layer) &&
          (excluded.which.empty() || excluded.which == name_of(which)))
        layers_[i] = false;
    }
  }
}

bool Fp8Layers::any() const { return lm_head_ || any_linear(); }

bool Fp8Layers::any_linear() const { return std::find(layers_.begin(), layers_.end(), true) != layers_.end(); }

bool Fp8Layers::has(std::int64_t layer, LinearLayer which) const {
  return !layers_.empty() &&
         layers_[static_cast<std::size_t>(layer) * kLinearLayers.size() + static_cast<std::size_t>(which)];
}

bool Fp8Layers::has_any_of(std::int64_t layer) const {
  return std::ranges::any_of(kLinearLayers, [&](LinearLayer which) { return has(layer, which); });
}

bool Fp8Layers::has_all_of(std::int64_t layer) const {
  return std::ranges::all_of(kLinearLayers, [&](LinearLayer which) { return has(layer, which); });
}

bool Fp8Layers::has_in_any_layer(LinearLayer which) const {
  for (std::size_t i = static_cast<std::size_t>(which); i < layers_.size(); i += kLinearLayers.size())
    if (layers_[i]) return true;
  return false;
}

bool Fp8Layers::has_in_every_layer(LinearLayer which) const {
  for (std::size_t i = static_cast<std::size_t>(which); i < layers_.size(); i += kLinearLayers.size())
    if (!layers_[i]) return false;
  return !layers_.empty();
}

bool is_excludable(const ModelConfig& config, const std::string& name) {
  Excluded excluded;
  return name == kHead || parse(config, name, excluded);
}

std::string excludable_names(const ModelConfig& config) {
  std::string names(kHead);
  for (const LinearLayer layer : kLinearLayers) names += concat(", ", name_of(layer));
  return concat(names, ", layers.N or layers.N.o_proj with N from 0 to ", config.num_hidden_layers - 1);
}

std::string misfit_of(LinearLayer layer, const ModelConfig& config) {
  if (has_fp8_products(layer, config)) return {};
  const auto [inputs, outputs] = widths_of(layer, config);
  if (inputs % kFp8Alignment != 0) return concat(name_of(layer), " has ", inputs, " inputs");
  return concat(name_of(layer), " has ", outputs, " outputs");
}

std::string why_unsupported(const Fp8Layers& layers, const ModelConfig& config, std::int64_t tokens) {
  if (!layers.any()) return {};
  if (tokens % kFp8Alignment != 0)
    return concat("a micro-batch has ", tokens, " tokens, expected a multiple of ", kFp8Alignment);
  std::string found, names;
  int misfits = 0;
  bool others = false;  // a layer or the head has products in FP8
  const auto add = [&](std::string_view name, const std::string& misfit) {
    others |= misfit.empty();
    if (misfit.empty()) return;
    found += (misfits > 0 ? ", " : "") + misfit;
    names += concat(misfits > 0 ? ", " : "", '"', name, '"');
    ++misfits;
  };
  for (const LinearLayer which : kLinearLayers)
    if (layers.has_in_any_layer(which)) add(name_of(which), misfit_of(which, config));
  if (layers.has_lm_head())
    add(kHead, config.hidden_size % kFp8Alignment == 0 ? "" : concat(kHead, " has ", config.hidden_size, " inputs"));
  if (misfits == 0) return {};
  found += concat(misfits == 1 ? ", expected a multiple of " : ", expected multiples of ", kFp8Alignment);
  if (!others) return found + ", or train.fp8 none";
  return concat(found, "; train.fp8_exclude [", names, misfits == 1 ? "] leaves it out" : "] leaves them out");
}

}  // namespace ssa
