#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <thread>

#include "end_process.h"
#include "mpi_comm.h"
#include "ssa/base/program.h"
#include "ssa/comm/comm.h"
#include "start_guard.h"

namespace ssa {
namespace {

/// Seconds that a rank which failed before MPI started waits for the others.
constexpr double kMeetSeconds = 30;

/// False too if the launcher's variables make no sense, which is then the error to print.
bool started_with_others() {
  try {
    launched_on_machine();
    return launched_ranks() > 1;
  } catch (const Error&) {
    return false;
  }
}

/// Prints the error, unless another rank does so first, and ends all ranks. Returns the exit code if there is only one.
int end_all(const std::string& message, int exit_code) {
  wait_if_ending();
  if (!started_with_others()) {
    std::cerr << "error: " << message << std::endl;
    return exit_code;
  }
  // Starts MPI if it has not started: then only one rank prints, and MPI_Abort ends the others.
  if (!mpi_running()) {
    const StartGuard guard(kMeetSeconds, message, exit_code);
    mpi_start();
  }
  // A rank that waits here has nothing to save, so the launcher's SIGTERM may end it.
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
  // Longer than a launcher takes to end the ranks of a machine (Open MPI: SIGKILL after a second), and staggered, so
  // that only one rank prints if several fail, but not rank 0.
  constexpr std::chrono::milliseconds kFirst(2000), kStagger(500), kLongest(10000);
  if (const int rank = mpi_rank(); rank > 0)
    std::this_thread::sleep_for(std::min(kFirst + (rank - 1) * kStagger, kLongest));
  // One write, so that lines of several ranks do not mix.
  const std::string line = fmt::format("error: rank {}: {}\n", mpi_rank(), message);
  std::fflush(stdout);
  std::fwrite(line.data(), 1, line.size(), stderr);
  StartGuard(kMeetSeconds).silence_others();  // of those that have started MPI and still wait for others
  mpi_abort(exit_code);
}

}  // namespace

int run_ranks(const std::function<int()>& body) {
  open_standard_files();
  int exit_code = kExitFailed;
  try {
    exit_code = body();
    if (mpi_running()) mpi_finish();
    stop_watchdog();
  } catch (const Error& error) {
    return end_all(error.what(), error.exit_code());
  } catch (const std::exception& error) {
    return end_all(foreign_message(error), kExitFailed);
  }
  return exit_code;
}

}  // namespace ssa
