// Errors and checks. A message states the cause and the values found and expected. Checks are active in all build
// types.
#pragma once

#include <exception>
#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace ssa {

/// Exit codes of all programs.
enum ExitCode : int { kExitDone = 0, kExitFailed = 1, kExitUsage = 2, kExitStopped = 75 };

/// A failure at run time. A program that does not handle it ends with its exit code.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ExitCode exit_code = kExitFailed)
      : std::runtime_error(message), exit_code_(exit_code) {}
  ExitCode exit_code() const { return exit_code_; }

 private:
  ExitCode exit_code_;
};

/// A wrong command line or config: exit code 2.
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error(message, kExitUsage) {}
};

/// Joins its arguments as operator<< prints them.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Text from outside (a key, a value, a path, a name) as an error shows it: not more than `longest` bytes, the middle
/// left out if need be, and no control characters.
std::string shown(std::string_view text, std::size_t longest = 300);

/// What is printed of an exception that another library threw: shown(), and no text of the JSON library. For
/// std::bad_alloc: "out of host memory".
std::string foreign_message(const std::exception& error);

namespace error_detail {

/// The parts of a message that are only known at run time are shown(); what the program's authors wrote is not.
template <class Part>
decltype(auto) safe(const Part& part) {
  if constexpr (std::is_same_v<Part, std::string> || std::is_same_v<Part, std::string_view>)
    return shown(part);
  else if constexpr (std::is_same_v<Part, std::filesystem::path>)
    return shown(part.string());
  else
    return (part);
}

}  // namespace error_detail

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(concat(error_detail::safe(parts)...));
}

template <class... Parts>
[[noreturn]] void fail_usage(const Parts&... parts) {
  throw UsageError(concat(error_detail::safe(parts)...));
}

}  // namespace ssa

/// SSA_CHECK(dim == 64 || dim == 128, "attention: head_dim ", dim, ", expected 64 or 128")
#define SSA_CHECK(condition, ...)  \
  do {                             \
    if (!(condition)) [[unlikely]] \
      ::ssa::fail(__VA_ARGS__);    \
  } while (false)
