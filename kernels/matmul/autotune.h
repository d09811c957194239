// Chooses the cuBLASLt algorithm of a plan by measurement, among those that give the same bits. See README.md.
#pragma once

#include "kernels/matmul/plan.h"

namespace ssa::cuda {

/// Sets plan.admitted and plan.choice. Runs the product `p` to compare and to time algorithms, and waits for the
/// stream. p.out is overwritten with the product, or left as it was if the product is to be added to it.
void choose_algorithm(Stream& stream, MatmulPlan& plan, const Matmul& p);

}  // namespace ssa::cuda
