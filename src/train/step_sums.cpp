#include "ssa/train/step_sums.h"

#include <numeric>

namespace ssa {
namespace {

/// Offsets in the tensor. The squared norms follow the scalars, and the per-head sums follow them.
enum Offset : std::int64_t { kCe, kAlignment, kScalars };

}  // namespace

StepSums::StepSums(Arena& arena, const ModelConfig& config, std::size_t buckets)
    : layers_(config.num_hidden_layers),
      heads_(config.num_attention_heads),
      buckets_(static_cast<std::int64_t>(buckets)),
      all_(arena.allocate("sums", DType::f64, {kScalars + 2 * buckets_ + 2 * layers_ * heads_})) {}

LossSums StepSums::losses() const {
  return {.ce = all_.rows(kCe, kCe + 1), .alignment = all_.rows(kAlignment, kAlignment + 1)};
}

AttentionSums StepSums::attention() const {
  const std::int64_t count = layers_ * heads_, first = kScalars + 2 * buckets_;
  const auto per_head = [&](std::int64_t begin) { return all_.rows(begin, begin + count).view({layers_, heads_}); };
  return {.selected_mass = per_head(first), .entropy = per_head(first + count)};
}

Tensor StepSums::squared_norm(std::size_t bucket) const {
  const std::int64_t at = kScalars + static_cast<std::int64_t>(bucket);
  return all_.rows(at, at + 1);
}

Tensor StepSums::local_squared_norm(std::size_t bucket) const {
  const std::int64_t at = kScalars + buckets_ + static_cast<std::int64_t>(bucket);
  return all_.rows(at, at + 1);
}

StepSums::Values StepSums::read(Stream& stream) const {
  const std::vector<double> all = read_all(stream);
  const auto norms = all.begin() + kScalars, local_norms = norms + buckets_, per_head = local_norms + buckets_;
  const auto by_layer = [&](auto heads) {
    std::vector<double> sums;
    for (std::int64_t layer = 0; layer < layers_; ++layer, heads += heads_)
      sums.push_back(std::accumulate(heads, heads + heads_, 0.0));
    return sums;
  };
  return {.ce = all[kCe],
          .alignment = all[kAlignment],
          .squared_norm = std::accumulate(norms, local_norms, 0.0),
          .local_squared_norms = {local_norms, per_head},
          .selected_mass = by_layer(per_head),
          .entropy = by_layer(per_head + layers_ * heads_)};
}

std::vector<double> StepSums::read_all(Stream& stream) const {
  std::vector<double> all(static_cast<std::size_t>(all_.count()));
  stream.copy(all.data(), all_.data(), all_.bytes());
  stream.synchronize();
  return all;
}

}  // namespace ssa
