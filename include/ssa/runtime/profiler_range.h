// ProfilerRange: a named span of host time in the timeline of Nsight Systems (NVTX), for the phases of a step and the
// ops. Costs a function call when no profiler is attached, and nothing in a build without CUDA.
#pragma once

namespace ssa {

class ProfilerRange {
 public:
#if SSA_WITH_CUDA
  explicit ProfilerRange(const char* name);
  ~ProfilerRange();
#else
  explicit ProfilerRange(const char*) {}
#endif
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;
};

}  // namespace ssa
