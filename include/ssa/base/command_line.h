// The command line of a program: its main names each option and the variable that it sets, then all arguments are read.
//
//   CommandLine line("ssa_bench", kHelp);
//   line.whole("--rows", shapes.rows, 1);
//   if (!line.read(argc, argv)) return kExitDone;
//
// What is wrong is a UsageError of one line: what was found, what was expected. The last value of an option counts;
// those of a list add up.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssa/base/error.h"

namespace ssa {

class CommandLine {
 public:
  using Texts = std::vector<std::string>;
  using Take = std::function<void(const std::string& value)>;
  static constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

  /// --help and -h print `help`.
  CommandLine(std::string program, std::string help) : program_(std::move(program)), help_(std::move(help)) {}

  void flag(const std::string& name, bool& set);
  /// A value that the caller makes something of.
  void option(const std::string& name, Take take) { options_.push_back({name, Values::one, std::move(take)}); }
  template <class Text>
  void text(const std::string& name, Text& to) {
    option(name, [&to](const std::string& value) { to = value; });
  }
  /// A whole number from `least` to `most`.
  template <class Number>
  void whole(const std::string& name, Number& to, std::int64_t least, std::int64_t most = kNoLimit) {
    option(name,
           [=, &to](const std::string& value) { to = static_cast<Number>(whole_number(name, value, least, most)); });
  }
  /// A finite number that `fits`; `expected` says in an error which do, as in "a number above 0".
  void real(const std::string& name, double& to, const char* expected, bool fits(double));
  /// One of several names, each with what it stands for.
  template <class T>
  void choice(const std::string& name, T& to, std::vector<std::pair<std::string, std::type_identity_t<T>>> choices) {
    option(name, [=, &to](const std::string& value) {
      std::string names;
      for (std::size_t i = 0; i < choices.size(); ++i) {
        if (choices[i].first == value) return void(to = choices[i].second);
        names += (i == 0 ? "" : i + 1 == choices.size() ? " or " : ", ") + choices[i].first;
      }
      fail_usage(name, " ", value, ": expected ", names);
    });
  }
  /// With commas between them.
  void list(const std::string& name, Texts& to);
  /// The same; takes the place of what `to` holds by default.
  void list(const std::string& name, std::vector<std::int64_t>& to, std::int64_t least, std::int64_t most = kNoLimit);
  /// One argument or more, up to the next option: FILE...
  void files(const std::string& name, Texts& to);
  /// The arguments that belong to no option; without this they are errors.
  void paths(Texts& to) { paths_ = &to; }

  /// False when help was printed and nothing is left to do.
  bool read(int argc, char** argv) const;

  /// What `parts` say is wrong, and where the options are explained.
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    fail_usage(parts..., "; see ", program_, " --help");
  }

 private:
  enum class Values { none, one, several };
  struct Option {
    std::string name;
    Values values;
    Take take;
  };

  static std::int64_t whole_number(const std::string& name, const std::string& value, std::int64_t least,
                                   std::int64_t most);

  std::string program_, help_;
  std::vector<Option> options_;
  Texts* paths_ = nullptr;
};

}  // namespace ssa
