// Chooses the cuBLASLt algorithm of a plan by measurement, among those that give the same bits. See README.md.
#pragma once

#include <string>

#include "kernels/matmul/choice_file.h"
#include "kernels/matmul/plan.h"

namespace ssa::cuda {

/// All that the choice of an algorithm depends on besides the product, in one line: GPU, library, workspace.
std::string describe_device(const CudaContext& context);

/// Sets plan.admitted and plan.choice. Runs the product `p` to compare and to time algorithms, and waits for the
/// stream. p.out is overwritten with the product, or left as it was if the product is to be added to it. An algorithm
/// that `saved` has for the product is not timed but compared, and a new choice is added to it.
void choose_algorithm(Stream& stream, MatmulPlan& plan, const Matmul& p, MatmulChoiceFile& saved);

}  // namespace ssa::cuda
