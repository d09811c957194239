// Signals. SIGTERM, SIGINT, SIGHUP and SIGUSR1 ask a run to stop at the next safe place. SIGPIPE and SIGXFSZ are ignored:
// the write that caused them fails and is reported. SIGBUS, which a mapped file causes when it was truncated or cannot
// be read, ends the process with one line that names the file.
#pragma once

namespace ssa {

/// Installs the handlers. A second SIGINT (Ctrl-C) ends the process at once, as without handlers.
void catch_signals();

/// The stop signal received since then, or 0.
int stop_signal();

}  // namespace ssa
