// Entry-point wrapper for single-process programs: an exception becomes one line on stderr and an exit code.
#pragma once

#include <cstdio>
#include <exception>

#include "ssa/base/error.h"

namespace ssa {

/// Runs `body` and returns its exit code. An exception is printed as "name: what" on stderr; the exit code is then that
/// of the Error, or 1 for another exception.
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
