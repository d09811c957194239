// SIGTERM, SIGINT and SIGUSR1 ask a run to stop at the next safe place.
#pragma once

namespace ssa {

/// Installs the handlers. A second SIGINT (Ctrl-C) ends the process at once, as without handlers.
void catch_stop_signals();

/// The signal received since, or 0.
int stop_signal();

}  // namespace ssa
