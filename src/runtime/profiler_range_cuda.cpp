#include <nvtx3/nvToolsExt.h>

#include "ssa/runtime/profiler_range.h"

namespace ssa {

ProfilerRange::ProfilerRange(const char* name) { nvtxRangePushA(name); }
ProfilerRange::~ProfilerRange() { nvtxRangePop(); }

}  // namespace ssa
