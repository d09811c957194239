#include "ssa/base/signals.h"

#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <initializer_list>

#include "ssa/base/error.h"
#include "ssa/base/mapped_file.h"

namespace ssa {
namespace {

volatile std::sig_atomic_t received = 0;

void on_stop(int signal) { received = signal; }

void print(const char* text) { static_cast<void>(!::write(STDERR_FILENO, text, std::strlen(text))); }

/// Only async-signal-safe calls. The process cannot continue: the load that failed would be repeated.
void on_bus_error(int, siginfo_t* info, void*) {
  const char* file = MappedFile::path_at(info->si_addr);
  print("error: ");
  print(file ? file : "a mapped file");
  print(": cannot be read (SIGBUS): it was truncated while in use, or its disk failed\n");
  ::_exit(kExitFailed);
}

void install(int signal, struct sigaction action) {
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
}

}  // namespace

void catch_stop_signals() {
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) {
    struct sigaction action {};
    action.sa_handler = on_stop;
    action.sa_flags = SA_RESTART;
    if (signal == SIGINT) action.sa_flags |= static_cast<int>(SA_RESETHAND);
    install(signal, action);
  }
}

int stop_signal() { return received; }

void wait_for_input(int descriptor) {
  constexpr int kMilliseconds = 50;  // another thread may take the signal, which does not end poll() in this one
  pollfd file{descriptor, POLLIN, 0};
  while (::poll(&file, 1, kMilliseconds) <= 0)
    if (const int signal = stop_signal())
      throw StoppedBySignal(concat("stopped by signal ", signal, " while waiting for input"));
}

void handle_io_signals() {
  for (const int signal : {SIGPIPE, SIGXFSZ}) {
    struct sigaction action {};
    action.sa_handler = SIG_IGN;
    install(signal, action);
  }
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  install(SIGBUS, action);
}

}  // namespace ssa
