#include "ssa/train/step_sums.h"

#include <numeric>

namespace ssa {
namespace {

/// Offsets in the tensor. The per-head sums follow the scalars.
enum Offset : std::int64_t { kCe, kAlignment, kSquaredNorm, kScalars };

}  // namespace

StepSums::StepSums(Arena& arena, const ModelConfig& config)
    : layers_(config.num_hidden_layers),
      heads_(config.num_attention_heads),
      all_(arena.allocate("sums", DType::f64, {kScalars + 2 * layers_ * heads_})) {}

LossSums StepSums::losses() const {
  return {.ce = all_.rows(kCe, kCe + 1), .alignment = all_.rows(kAlignment, kAlignment + 1)};
}

AttentionSums StepSums::attention() const {
  const std::int64_t count = layers_ * heads_;
  const auto per_head = [&](std::int64_t begin) { return all_.rows(begin, begin + count).view({layers_, heads_}); };
  return {.selected_mass = per_head(kScalars), .entropy = per_head(kScalars + count)};
}

Tensor StepSums::squared_norm() const { return all_.rows(kSquaredNorm, kSquaredNorm + 1); }

StepSums::Values StepSums::read(Stream& stream) const {
  const std::vector<double> all = read_all(stream);
  const auto by_layer = [&](auto per_head) {
    std::vector<double> sums;
    for (std::int64_t layer = 0; layer < layers_; ++layer, per_head += heads_)
      sums.push_back(std::accumulate(per_head, per_head + heads_, 0.0));
    return sums;
  };
  return {.ce = all[kCe],
          .alignment = all[kAlignment],
          .squared_norm = all[kSquaredNorm],
          .selected_mass = by_layer(all.begin() + kScalars),
          .entropy = by_layer(all.begin() + kScalars + layers_ * heads_)};
}

std::vector<double> StepSums::read_all(Stream& stream) const {
  std::vector<double> all(static_cast<std::size_t>(all_.count()));
  stream.copy(all.data(), all_.data(), all_.bytes());
  stream.synchronize();
  return all;
}

}  // namespace ssa
