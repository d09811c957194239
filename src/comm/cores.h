// How the ranks of one machine share its cores.
#pragma once

#include <vector>

namespace ssa {

/// The part of `cores` (numbers, ascending) for rank `rank` of `ranks`: consecutive, the same number for each rank, at
/// least one.
std::vector<int> share_of_cores(const std::vector<int>& cores, int rank, int ranks);

/// Throws UsageError if OpenMP would start far more threads than a machine has cores, because of what OMP_NUM_THREADS
/// says: it would crash, or take minutes for a step.
void check_thread_count();

/// Gives this process, local rank `rank` of `ranks` on its machine, its share of the cores that the machine allows, and
/// OpenMP as many threads, unless OMP_NUM_THREADS has a number. mpirun by default binds each of one or two ranks to a
/// core, on which all its threads would run; with --bind-to none or socket every rank would start a thread per core,
/// and the threads of the ranks would wait for each other. A binding to at least the share's number of cores is kept,
/// and so is the binding of a single rank to more than one core. If the system refuses, nothing changes.
void take_share_of_cores(int rank, int ranks);

}  // namespace ssa
