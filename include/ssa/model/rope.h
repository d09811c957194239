// Rotary frequencies and the cosine/sine table that qkv_rope reads.
#pragma once

#include <cstdint>
#include <vector>

#include "ssa/model/model_config.h"

namespace ssa {

/// rope_theta^(-2i/D) for i < D/2, with llama3 scaling if the config has it (Llama 3.1: frequencies of wavelengths
/// beyond original / low_freq_factor are divided by factor, below original / high_freq_factor they are kept, and
/// between they are interpolated).
std::vector<double> rope_inverse_frequencies(const ModelConfig& config);

/// [positions, D/2, 2]: cosine and sine of position x inverse frequency, computed in double and rounded once.
std::vector<float> rope_table(const ModelConfig& config, std::int64_t positions);

}  // namespace ssa
