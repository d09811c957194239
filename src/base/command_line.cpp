#include "ssa/base/command_line.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <optional>

namespace ssa {
namespace {

/// Nothing unless the whole text is a number of this type.
template <class Number>
std::optional<Number> number_of(const std::string& text) {
  Number number{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{} || stop != end) return std::nullopt;
  return number;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text)
    if (c == ',')
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

/// A lone "-" is a value: standard input.
bool is_option(const std::string& argument) { return argument.starts_with("-") && argument != "-"; }

}  // namespace

void CommandLine::flag(const std::string& name, bool& set) {
  options_.push_back({name, Values::none, [&set](const std::string&) { set = true; }});
}

void CommandLine::real(const std::string& name, double& to, const char* expected, bool fits(double)) {
  option(name, [=, &to](const std::string& value) {
    const auto number = number_of<double>(value);
    if (!number || !std::isfinite(*number) || !fits(*number)) fail_usage(name, " ", value, ": expected ", expected);
    to = *number;
  });
}

void CommandLine::list(const std::string& name, Texts& to) {
  option(name, [&to](const std::string& value) {
    for (const std::string& part : split(value)) to.push_back(part);
  });
}

void CommandLine::list(const std::string& name, std::vector<std::int64_t>& to, std::int64_t least, std::int64_t most) {
  option(name, [=, &to, by_default = true](const std::string& value) mutable {
    if (std::exchange(by_default, false)) to.clear();
    for (const std::string& part : split(value)) to.push_back(whole_number(name, part, least, most));
  });
}

void CommandLine::files(const std::string& name, Texts& to) {
  options_.push_back({name, Values::several, [&to](const std::string& value) { to.push_back(value); }});
}

bool CommandLine::read(int argc, char** argv) const {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--help" || argument == "-h") {
      std::fputs(help_.c_str(), stdout);
      return false;
    }
    const auto is_named = [&](const Option& option) { return option.name == argument; };
    const auto found = std::find_if(options_.begin(), options_.end(), is_named);
    if (found == options_.end()) {
      if (!paths_ || argument.starts_with("-")) fail("unknown argument ", argument);
      paths_->push_back(argument);
    } else if (found->values == Values::none) {
      found->take(argument);
    } else {
      if (i + 1 == argc) fail(argument, " needs a value");
      do found->take(argv[++i]);
      while (found->values == Values::several && i + 1 < argc && !is_option(argv[i + 1]));
    }
  }
  return true;
}

std::int64_t CommandLine::whole_number(const std::string& name, const std::string& value, std::int64_t least,
                                       std::int64_t most) {
  const auto number = number_of<std::int64_t>(value);
  if (!number || *number < least || *number > most)
    fail_usage(name, " ", value, ": expected a whole number from ", least, most < kNoLimit ? concat(" to ", most) : "");
  return *number;
}

}  // namespace ssa
