// The end of a rank that must not wait for anything: not for a collective, not for the GPU.
#pragma once

#include <functional>
#include <string>

namespace ssa {

/// What end_process does before the process ends, for at most three seconds; empty for nothing. Any thread may run it.
/// Returns when no earlier action runs.
void set_abort_action(std::function<void()> action);

/// Prints "error: " and the line on stderr in one write.
void print_error(const std::string& line);

/// Ends this process with `exit_code`, without destructors. Not MPI_Abort: MPI may be what hangs. The launcher ends the
/// other ranks of the job when one fails.
[[noreturn]] void end_process(int exit_code);

/// Does not return once end_process has begun on another thread: a collective that was aborted has wrong results, which
/// nothing may use any more.
void wait_if_ending();

}  // namespace ssa
