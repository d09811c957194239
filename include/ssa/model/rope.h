// Rotary frequencies and the cosine/sine table that qkv_rope reads.
#pragma once

#include <cstdint>
#include <vector>

#include "ssa/model/model_config.h"

namespace ssa {

/// rope_theta^(-2i/D) for i < D/2, under llama3 scaling where the config asks for it (Llama 3.1: wavelengths beyond
/// original / low_freq_factor are divided by factor, those below original / high_freq_factor kept, those between
/// mixed).
std::vector<double> rope_inverse_frequencies(const ModelConfig& config);

/// [positions, D/2, 2]: cosine and sine of position x inverse frequency, computed in double and rounded once.
std::vector<float> rope_table(const ModelConfig& config, std::int64_t positions);

}  // namespace ssa
