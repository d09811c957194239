// The result of matmul's autotuning, for tests. See README.md.
#pragma once

#include <cstddef>

#include "kernels/matmul/matmul.h"

namespace ssa {

struct MatmulChoice {
  std::size_t candidates = 0;  ///< algorithms that cuBLASLt proposed
  std::size_t admitted = 0;    ///< how many of them may run: the first, and all that gave the same bits
  std::size_t chosen = 0;      ///< index of the one that runs, among the admitted
  int tunings = 0;             ///< how often this choice was made; more than once only after products of zeros
  bool measured = false;       ///< whether the admitted algorithms were timed
  bool final = false;          ///< false after a product of zeros: the next call chooses again
};

namespace cuda {

/// The choice for products like `p` (shape, transposition, dtype, alignment), which matmul has computed on this stream
/// before; throws Error if it has not.
MatmulChoice matmul_choice(Stream& stream, const Matmul& p);

/// Computes `p` with the admitted algorithm of that index instead of the chosen one.
void matmul_with_admitted(Stream& stream, const Matmul& p, std::size_t index);

}  // namespace cuda
}  // namespace ssa
