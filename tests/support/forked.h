// Runs code in a child process, for tests that kill it or change process state that cannot be restored.
#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "ssa/base/error.h"

namespace ssa::test {

class Forked {
 public:
  /// The child runs `body(send)`, which may send text to the parent, and exits; an exception's text is sent as well.
  template <class Body>
  explicit Forked(Body&& body) {
    int ends[2];
    SSA_CHECK(::pipe(ends) == 0, "pipe: ", std::strerror(errno));
    pid_ = ::fork();
    SSA_CHECK(pid_ >= 0, "fork: ", std::strerror(errno));
    if (pid_ == 0) {
      ::close(ends[0]);
      const auto send = [&](const std::string& text) {
        if (::write(ends[1], text.data(), text.size()) < 0) ::_exit(1);
      };
      try {
        body(send);
      } catch (const std::exception& e) {
        send(e.what());
      }
      ::_exit(0);  // no destructors: they belong to the parent's test session
    }
    ::close(ends[1]);
    read_end_ = ends[0];
  }
  ~Forked() {
    ::close(read_end_);
    if (pid_ > 0) {
      kill(SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }
  Forked(const Forked&) = delete;
  Forked& operator=(const Forked&) = delete;

  void kill(int signal) { ::kill(pid_, signal); }

  /// Waits for the child to end; returns everything it sent.
  std::string wait() {
    std::string text;
    char piece[4096];
    for (ssize_t got; (got = ::read(read_end_, piece, sizeof piece)) > 0;)
      text.append(piece, static_cast<std::size_t>(got));
    ::waitpid(std::exchange(pid_, -1), nullptr, 0);
    return text;
  }

 private:
  pid_t pid_ = -1;
  int read_end_ = -1;
};

}  // namespace ssa::test
