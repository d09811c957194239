// Signals. SIGTERM, SIGINT, SIGHUP and SIGUSR1 ask a program to stop at the next safe place. SIGPIPE and SIGXFSZ are
// ignored: the write that caused them fails and is reported. SIGBUS, which a mapped file causes when it was truncated
// or cannot be read, ends the process with one line that names the file.
#pragma once

#include <stdexcept>

namespace ssa {

/// A stop signal arrived while the program waited for a writer of its input. Not an Error: nothing is wrong with the
/// input.
struct StoppedBySignal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Makes stop signals only set stop_signal(). A second SIGINT (Ctrl-C) ends the process immediately, as without a
/// handler. Call it first in main: a launcher may forward a signal at any time.
void catch_stop_signals();

/// The last stop signal received since then, or 0.
int stop_signal();

/// Waits until read() of this descriptor returns at once: of a pipe or FIFO, until a writer has written or closed.
/// Throws StoppedBySignal if a stop signal has arrived and there is still nothing to read.
void wait_for_input(int descriptor);

/// Installs the handlers of SIGPIPE, SIGXFSZ and SIGBUS. Call it after MPI has started, which looks at these signals
/// too.
void handle_io_signals();

}  // namespace ssa
