// Checks of error messages: what a call throws, and which names and values the message must contain.
#pragma once

#include <exception>
#include <string>

#include "support/catch.h"

namespace ssa::test {

/// The message of the exception that f throws; empty if it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return {};
}

/// Checks that an error message is one line and contains each of `parts`.
template <class... Parts>
void check_error(const std::string& error, const Parts&... parts) {
  INFO("error: " << error);
  CHECK(!error.empty());
  CHECK(error.find('\n') == std::string::npos);
  for (const std::string& part : {std::string(parts)...}) {
    INFO("missing: " << part);
    CHECK(error.find(part) != std::string::npos);
  }
}

}  // namespace ssa::test
