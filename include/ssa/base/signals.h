// SIGTERM, SIGINT and SIGUSR1 ask a program to stop after its current step.
#pragma once

namespace ssa {

/// Installs the handlers. A second SIGINT (Ctrl-C) ends the process at once, as it would without handlers.
void catch_stop_signals();

/// The last signal received since, or 0.
int stop_signal();

}  // namespace ssa
