// What the main of a program of one process returns.
#pragma once

#include <cstdio>
#include <exception>

#include "ssa/base/error.h"

namespace ssa {

/// Runs `body`, which gives the exit code. An exception that leaves it becomes one line on stderr, "name: what", and
/// its exit code (Error) or 1.
template <class Body>
int run_program(const char* name, Body&& body) {
  int exit_code = kExitFailed;
  try {
    return body();
  } catch (const Error& error) {
    exit_code = error.exit_code();
    std::fflush(stdout);
    std::fprintf(stderr, "%s: %s\n", name, error.what());
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s: %s\n", name, error.what());
  }
  return exit_code;
}

}  // namespace ssa
