// Ends a process without waiting for a collective or for the GPU.
#pragma once

#include <functional>
#include <string>

namespace ssa {

/// Sets the function that end_process calls for `owner`, on any thread; empty for none. All of them have three seconds.
/// Returns when no function is running.
void set_abort_action(const void* owner, std::function<void()> action);

/// Prints "error: " and the line on stderr in one write.
void print_error(const std::string& line);

/// Ends this process with `exit_code`, without destructors. Not MPI_Abort: MPI may be what hangs. The launcher ends the
/// other ranks of the job when one fails.
[[noreturn]] void end_process(int exit_code);

/// Does not return if end_process has begun on another thread: an aborted collective has wrong results, which must not
/// be used.
void wait_if_ending();

}  // namespace ssa
