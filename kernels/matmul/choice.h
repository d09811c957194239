// The result of matmul's autotuning, for the log and for tests. See README.md.
#pragma once

#include <cstddef>
#include <string>

#include "kernels/matmul/matmul.h"

namespace ssa {

struct MatmulChoice {
  std::size_t candidates = 0;  ///< algorithms that cuBLASLt proposed
  std::size_t admitted = 0;    ///< how many of them may run: the first, and all that gave the same bits
  std::size_t chosen = 0;      ///< index of the one that runs, among the admitted
  int tunings = 0;             ///< how often this choice was made; more than once only after products of zeros
  bool measured = false;       ///< whether the admitted algorithms were timed
  bool from_file = false;      ///< whether the choice was read from the cache directory
  bool final = false;          ///< false after a product of zeros: the next call chooses again
};

/// The choices made on a stream so far.
struct MatmulChoiceReport {
  int measured = 0, from_file = 0;
  double seconds = 0;   ///< that measuring took
  std::string file;     ///< where choices are kept; empty if they are not, or none was made
  std::string problem;  ///< MatmulChoiceFile::problem()
};

/// Of the CPU, an empty one.
MatmulChoiceReport matmul_choice_report(Stream& stream);

namespace cuda {

MatmulChoiceReport matmul_choice_report(Stream& stream);

/// The choice for products like `p` (shape, transposition, dtype, alignment), which matmul has computed on this stream
/// before; throws Error if it has not.
MatmulChoice matmul_choice(Stream& stream, const Matmul& p);

/// Computes `p` with the admitted algorithm of that index instead of the chosen one.
void matmul_with_admitted(Stream& stream, const Matmul& p, std::size_t index);

}  // namespace cuda
}  // namespace ssa
