// Entry-point wrapper for single-process programs: an exception becomes one line on stderr and an exit code.
#pragma once

#include <cstdio>
#include <exception>

#include "ssa/base/error.h"

namespace ssa {

/// Opens /dev/null on each of the descriptors 0 to 2 that is closed, so that no file of the program gets one of these
/// numbers and collects its messages. First thing in main.
void open_standard_files();

/// Flushes standard output. Throws Error if some of what was printed could not be written, as on a full disk. A reader
/// that has closed its end of a pipe has what it wants: no error.
void finish_output();

/// Runs `body`, finishes its output and returns its exit code. An exception is printed as "name: what" on stderr; the
/// exit code is then Error::exit_code(), or 1 for any other exception.
template <class Body>
int run_program(const char* name, Body&& body) {
  open_standard_files();
  int exit_code = kExitFailed;
  try {
    exit_code = body();
    finish_output();
  } catch (const Error& error) {
    exit_code = error.exit_code();
    std::fflush(stdout);
    std::fprintf(stderr, "%s: %s\n", name, error.what());
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s: %s\n", name, foreign_message(error).c_str());
  }
  return exit_code;
}

}  // namespace ssa
