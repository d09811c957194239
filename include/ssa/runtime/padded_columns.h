// The padding of rows of activations.
#pragma once

#include <cstdint>

namespace ssa {

/// The length to which the rows of a matrix of activations may be padded, so that in bf16 each begins at a multiple of
/// 16 bytes. Ops that take padded rows say so.
inline std::int64_t padded_columns(std::int64_t columns) { return (columns + 7) / 8 * 8; }

}  // namespace ssa
