// The message of what a call throws, to look for the names it must contain.
#pragma once

#include <exception>
#include <string>

#include "support/catch.h"

namespace ssa::test {

/// Empty if nothing is thrown.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return {};
}

/// An error is one line that contains every one of `parts`.
template <class... Parts>
void check_error(const std::string& error, const Parts&... parts) {
  INFO("error: " << error);
  CHECK(!error.empty());
  CHECK(error.find('\n') == std::string::npos);
  for (const std::string& part : {std::string(parts)...}) {
    INFO("looked for: " << part);
    CHECK(error.find(part) != std::string::npos);
  }
}

}  // namespace ssa::test
