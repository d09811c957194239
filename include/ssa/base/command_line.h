// The command line of a program: CLI11 with this project's error lines and help layout.
//
//   CommandLine line({.program = "ssa_bench", .usage = "[options]", .summary = "...", .footer = "Example: ..."});
//   line.add_option("--rows", rows, "sequences per batch")->option_text("N")->transform(integer(1));
//   if (!line.read(argc, argv)) return kExitDone;
//
// An option is declared once: name, variable, help, check. Wrong usage throws a UsageError of one line. If an option is
// given several times, the last value counts; the values of lists add up.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssa/base/error.h"

namespace ssa {

inline constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

/// For Option::transform: a decimal integer from `min` to `max`. It removes leading zeros, which CLI11 reads as octal.
CLI::Validator integer(std::int64_t min, std::int64_t max = kNoLimit);

/// For Option::check: a finite number that `fits`; `expected` describes it in errors, as in "a number above 0".
CLI::Validator number(std::string expected, bool (*fits)(double));

class CommandLine : public CLI::App {
 public:
  using Texts = std::vector<std::string>;

  /// The parts of the help text.
  struct About {
    std::string program;
    std::string usage;    ///< text after the program's name on the usage line
    std::string summary;  ///< printed first
    std::string footer;   ///< printed last: examples, exit codes
  };
  explicit CommandLine(About about);

  /// One of several names, each with its value. The help shows the current value as the default.
  template <class T>
  CLI::Option* add_choice(const std::string& name, T& to,
                          const std::vector<std::pair<std::string, std::type_identity_t<T>>>& choices,
                          const std::string& help) {
    Texts names;
    std::string current;
    for (const auto& [text, value] : choices) {
      names.push_back(text);
      if (value == to) current = text;
    }
    const auto set = [&to, choices](std::size_t chosen) { to = choices[chosen].second; };
    return add_one_of(name, std::move(names), set, help)->default_str(current);
  }
  /// Values separated by commas; they replace the default value of `to`.
  CLI::Option* add_list(const std::string& name, Texts& to, const std::string& help);
  CLI::Option* add_list(const std::string& name, std::vector<std::int64_t>& to, const std::string& help,
                        std::int64_t min, std::int64_t max = kNoLimit);

  /// Accepts "" as a value of this option. Other options refuse it: a script's variable was not set.
  void may_be_empty(const CLI::Option* option) { may_be_empty_.insert(option); }

  /// Parses the arguments. False if help was printed and the program should end.
  bool read(int argc, const char* const* argv);

  /// Throws a UsageError that ends by naming the program's --help.
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    fail_usage(parts..., "; see ", get_name(), " --help");
  }

 private:
  CLI::Option* add_one_of(const std::string& name, Texts names, std::function<void(std::size_t)> set,
                          const std::string& help);

  std::set<const CLI::Option*> may_be_empty_;
};

}  // namespace ssa
