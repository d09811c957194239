#include "ssa/train/flops.h"

#include <algorithm>
#include <utility>

#include "ssa/model/attention_path.h"

namespace ssa {

MeanKeys mean_keys(const ModelConfig& c, std::int64_t tokens) {
  std::int64_t causal = 0, selected = 0, window = 0, complete_blocks = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t own = t / c.block_size;
    causal += t + 1;
    selected += (std::min(c.block_counts, own + 1) - 1) * c.block_size + t % c.block_size + 1;
    window += std::min(c.window_size, t + 1);
    complete_blocks += (t + 1) / c.block_size;
  }
  const auto mean = [&](std::int64_t sum) { return static_cast<double>(sum) / static_cast<double>(tokens); };
  return {mean(causal), mean(selected), mean(window), mean(complete_blocks)};
}

namespace {

std::int64_t down_proj_parameters(const ModelConfig& c) { return c.hidden_size * c.intermediate_size; }

std::int64_t layer_parameters(const ModelConfig& c) {
  return c.hidden_size * (c.qkvg_width() + c.q_width()) + 3 * down_proj_parameters(c);
}

}  // namespace

std::int64_t matmul_parameters(const ModelConfig& c) {
  return c.num_hidden_layers * layer_parameters(c) + c.vocab_size * c.hidden_size;
}

double model_flops_per_token(const ModelConfig& c, std::int64_t tokens) {
  const auto attention = 4 * static_cast<double>(tokens) / 2 * static_cast<double>(c.q_width() * c.num_hidden_layers);
  return 6 * static_cast<double>(matmul_parameters(c)) + 3 * attention;
}

double executed_flops_per_token(const ModelConfig& c, std::int64_t tokens, Method method,
                                GradientCheckpointing checkpointing) {
  const MeanKeys mean = mean_keys(c, tokens);
  double keys = 0;    // attended to in one layer, by all branches
  double scored = 0;  // blocks scored for the selection: one product, no gradient
  const Branches branches = branches_of(training_path(method), c);
  if (branches.full) keys += mean.causal;
  if (branches.selected) keys += mean.selected, scored = mean.complete_blocks;
  keys += (branches.compressed ? mean.complete_blocks : 0) + (branches.window ? mean.window : 0);

  const auto layers = static_cast<double>(c.num_hidden_layers);
  const double product =
      2 * static_cast<double>(c.q_width());  // of a query with one key, or a probability with a value
  const double forward = product * (2 * keys + scored), backward = product * 5 * keys;
  double flops = 6 * static_cast<double>(matmul_parameters(c)) + layers * (forward + backward);
  if (checkpointing == GradientCheckpointing::full)  // a layer again, up to the input of down_proj
    flops += layers * (2 * static_cast<double>(layer_parameters(c) - down_proj_parameters(c)) + forward);
  return flops;
}

std::optional<std::int64_t> sparse_crossover_tokens(const ModelConfig& c, Method method) {
  const Branches branches = branches_of(training_path(method), c);
  if (branches.full) return std::nullopt;
  const std::int64_t selected = c.block_size * c.block_counts;
  return branches.compressed ? 4257 * (selected + c.window_size) / 768 : 1701 * selected / 256;
}

std::optional<double> peak_bf16_flops(const std::string& device_name) {
  // The data sheets state twice these numbers, for sparse matrices. The first matching name counts.
  constexpr std::pair<const char*, double> kPeaks[] = {
      {"H200 NVL", 835.5e12}, {"H100 NVL", 835.5e12}, {"H100 PCIe", 756e12}, {"GH200", 989.4e12},
      {"H200", 989.4e12},     {"H100", 989.4e12},     {"A100", 312e12}};
  for (const auto& [name, peak] : kPeaks)
    if (device_name.find(name) != std::string::npos) return peak;
  return std::nullopt;
}

}  // namespace ssa
