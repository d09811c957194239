// Numbers that a launcher (mpirun, srun) gives its processes in environment variables.
#pragma once

namespace ssa {

/// Ranks or the number of one; 0 if the variable is not set. UsageError if it has anything but an integer from 0 to
/// 1,000,000.
int launcher_number(const char* variable);

}  // namespace ssa
