#include "cores.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>

#include "ssa/base/error.h"

namespace ssa {
namespace {

std::vector<int> cores_of_this_thread() {
  cpu_set_t set;
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

bool run_on(const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  return sched_setaffinity(0, sizeof(set), &set) == 0;
}

/// Whether OMP_NUM_THREADS has a number of threads, or several for nested regions. OpenMP ignores other text.
bool threads_are_given() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  return text != nullptr && std::strtol(text, nullptr, 10) > 0;
}

}  // namespace

std::vector<int> share_of_cores(const std::vector<int>& cores, int rank, int ranks) {
  const auto count = static_cast<int>(cores.size()), each = std::max(1, count / ranks), first = rank * each % count;
  return {cores.begin() + first, cores.begin() + std::min(first + each, count)};
}

void check_thread_count() {
  constexpr int kMost = 4096;
  if (const int threads = omp_get_max_threads(); threads > kMost)
    fail_usage("OMP_NUM_THREADS: found ", threads, ", expected at most ", kMost);
}

void take_share_of_cores(int rank, int ranks) {
  const std::vector<int> bound = cores_of_this_thread();
  std::vector<int> all;
  for (int core = 0; core < CPU_SETSIZE; ++core) all.push_back(core);
  constexpr std::size_t kThreadsOfCore = 2;
  if (ranks == 1 && bound.size() > kThreadsOfCore) return;
  if (bound.empty() || !run_on(all)) return;
  const std::vector<int> allowed = cores_of_this_thread();  // the system drops cores that are absent or not allowed
  const std::vector<int> share = share_of_cores(allowed, rank, ranks);
  run_on(bound.size() < share.size() ? share : bound);
  if (!threads_are_given()) omp_set_num_threads(static_cast<int>(share.size()));
}

}  // namespace ssa
