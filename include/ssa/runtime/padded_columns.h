// The padding of rows of activations.
#pragma once

#include <cstdint>

namespace ssa {

/// The length to which the rows of a matrix of activations may be padded, so that in bf16 each begins at a multiple of
/// 16 bytes. Ops that take padded rows say so; they also take rows padded to a multiple of 16 columns, as products in
/// FP8 write them.
inline std::int64_t padded_columns(std::int64_t columns, std::int64_t multiple = 8) {
  return (columns + multiple - 1) / multiple * multiple;
}

}  // namespace ssa
