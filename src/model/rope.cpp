#include "ssa/model/rope.h"

#include <cmath>
#include <numbers>

namespace ssa {

std::vector<double> rope_inverse_frequencies(const ModelConfig& config) {
  std::vector<double> frequencies(static_cast<std::size_t>(config.head_dim / 2));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    double& f = frequencies[i];
    f = std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    if (!config.rope_scaling) continue;
    const RopeScaling& r = *config.rope_scaling;
    const double original = static_cast<double>(r.original_max_position_embeddings);
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength > original / r.low_freq_factor) {
      f /= r.factor;
    } else if (wavelength >= original / r.high_freq_factor) {
      const double smooth = (original / wavelength - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor);
      f = (1 - smooth) * f / r.factor + smooth * f;
    }
  }
  return frequencies;
}

std::vector<float> rope_table(const ModelConfig& config, std::int64_t positions) {
  const std::vector<double> frequencies = rope_inverse_frequencies(config);
  std::vector<float> table(static_cast<std::size_t>(positions) * frequencies.size() * 2);
  std::size_t at = 0;
  for (std::int64_t position = 0; position < positions; ++position)
    for (const double f : frequencies) {
      const double angle = static_cast<double>(position) * f;
      table[at++] = static_cast<float>(std::cos(angle));
      table[at++] = static_cast<float>(std::sin(angle));
    }
  return table;
}

}  // namespace ssa
