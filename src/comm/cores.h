// Which cores a rank's threads run on.
#pragma once

#include <vector>

namespace ssa {

/// Of `cores`, in their order, those of one of `ranks` ranks: neighbours, as many for each, at least one.
std::vector<int> share_of_cores(const std::vector<int>& cores, int rank, int ranks);

/// mpirun binds each of two ranks to one core unless told otherwise, and all threads of a rank then share it. If this
/// process, one of `ranks` on its machine, may use fewer cores than its share of those that the machine allows, it
/// takes the share; OpenMP uses as many threads, unless OMP_NUM_THREADS says how many. Linux only; elsewhere, or where
/// the system refuses, everything stays as it is.
void take_share_of_cores(int rank, int ranks);

}  // namespace ssa
