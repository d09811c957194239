#include "ssa/base/command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>

#include "ssa/base/or_list.h"
#include "ssa/base/program.h"

namespace ssa {
namespace {

constexpr std::size_t kHelpWidth = 80, kHelpColumn = 26;  // characters of a line; where descriptions begin

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

/// The text that a check returns; read() adds the option's name.
std::string mismatch(const std::string& found, const std::string& expected) {
  return fmt::format("{}: expected {}", found.empty() ? "\"\"" : found, expected);
}

/// Empty, or why `text` is not an integer from `min` to `max`.
std::string integer_problem(const std::string& text, std::int64_t min, std::int64_t max) {
  const auto number = number_of<std::int64_t>(text);
  if (number && min <= *number && *number <= max) return {};
  return mismatch(text, max == kNoLimit ? fmt::format("an integer of at least {}", min)
                                        : fmt::format("an integer from {} to {}", min, max));
}

/// Breaks text into lines of kHelpWidth and indents all but the first by `indent`.
std::string wrapped(const std::string& text, std::size_t indent) {
  std::string out, line;
  const auto end_line = [&] {
    if (!out.empty()) out += '\n' + std::string(indent, ' ');
    out += line;
    line.clear();
  };
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (!line.empty() && indent + line.size() + 1 + word.size() > kHelpWidth) end_line();
    line += (line.empty() ? "" : " ") + word;
    begin = end + 1;
  }
  end_line();
  return out;
}

class HelpFormatter : public CLI::Formatter {
 public:
  explicit HelpFormatter(std::string usage) : usage_(std::move(usage)) { label("Positionals", "Arguments"); }

  /// One blank line between sections, where CLI11 puts two.
  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override {
    return CLI::detail::find_and_replace(Formatter::make_help(app, std::move(name), mode), "\n\n\n", "\n\n");
  }

  std::string make_usage(const CLI::App*, std::string name) const override {
    return fmt::format("\nUsage: {} {}\n", name, usage_);
  }

  std::string make_option(const CLI::Option* option, bool is_positional) const override {
    std::string left = "  " + make_option_name(option, is_positional);
    if (!option->get_option_text().empty()) left += " " + option->get_option_text();
    std::string description = option->get_description(), default_text = option->get_default_str();
    std::erase_if(default_text, [](char c) { return c == '[' || c == ']'; });  // CLI11 puts lists in brackets
    if (!default_text.empty()) description += fmt::format(" (default: {})", default_text);
    const std::string gap = left.size() + 2 > kHelpColumn ? "\n" + std::string(kHelpColumn, ' ')
                                                          : std::string(kHelpColumn - left.size(), ' ');
    return left + gap + wrapped(description, kHelpColumn) + "\n";
  }

 private:
  std::string usage_;
};

}  // namespace

CLI::Validator integer(std::int64_t min, std::int64_t max) {
  return {[=](std::string& text) {
            std::string problem = integer_problem(text, min, max);
            if (problem.empty()) text = std::to_string(*number_of<std::int64_t>(text));
            return problem;
          },
          ""};
}

CLI::Validator number(std::string expected, bool (*fits)(double)) {
  return {[=, expected = std::move(expected)](const std::string& text) {
            const auto value = number_of<double>(text);
            return value && std::isfinite(*value) && fits(*value) ? std::string() : mismatch(text, expected);
          },
          ""};
}

CommandLine::CommandLine(About about) : CLI::App(std::move(about.summary), std::move(about.program)) {
  formatter(std::make_shared<HelpFormatter>(std::move(about.usage)));
  footer(std::move(about.footer));
  set_help_flag("-h,--help", "print this help");
  option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  allow_extras();  // read() reports them
}

CLI::Option* CommandLine::add_one_of(const std::string& name, Texts names, std::function<void(std::size_t)> set,
                                     const std::string& help) {
  const auto index_of = [names](const std::string& text) {
    return static_cast<std::size_t>(std::find(names.begin(), names.end(), text) - names.begin());
  };
  const auto check = [=](const std::string& text) -> std::string {
    if (index_of(text) < names.size()) return {};
    return mismatch(text, or_list({names.begin(), names.end()}));
  };
  const auto take = [=](const std::string& text) { set(index_of(text)); };
  return add_option_function<std::string>(name, take, help)
      ->option_text(fmt::format("{}", fmt::join(names, "|")))
      ->check(check);
}

CLI::Option* CommandLine::add_list(const std::string& name, Texts& to, const std::string& help) {
  const auto take = [&to](const Texts& values) {
    to.clear();
    for (const std::string& value : values)
      for (std::string& part : split(value)) to.push_back(std::move(part));
  };
  return add_option_function<Texts>(name, take, help)->allow_extra_args(false);
}

CLI::Option* CommandLine::add_list(const std::string& name, std::vector<std::int64_t>& to, const std::string& help,
                                   std::int64_t min, std::int64_t max) {
  const auto check = [=](const std::string& value) {
    std::string problem;
    for (const std::string& part : split(value))
      if (problem.empty()) problem = integer_problem(part, min, max);
    return problem;
  };
  const auto take = [&to](const Texts& values) {
    to.clear();
    for (const std::string& value : values)
      for (const std::string& part : split(value)) to.push_back(*number_of<std::int64_t>(part));
  };
  return add_option_function<Texts>(name, take, help)
      ->allow_extra_args(false)
      ->default_str(fmt::format("{}", fmt::join(to, ",")))
      ->check(check);
}

bool CommandLine::read(int argc, const char* const* argv) {
  const auto refuse_unknown = [&] {
    if (const Texts unknown = remaining(); !unknown.empty())
      fail(unknown.front().starts_with("-") ? "unknown option " : "unexpected argument ", unknown.front());
  };
  try {
    parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::fputs(help().c_str(), stdout);
    finish_output();
    return false;
  } catch (const CLI::RequiredError& error) {
    refuse_unknown();  // a misspelled option, rather than the one that it leaves missing
    for (const CLI::Option* option : get_options())
      if (option->get_required() && option->count() == 0)
        fail(option->get_name(), option->get_option_text().empty() ? "" : " ", option->get_option_text(),
             " is missing");
    fail(error.what());
  } catch (const CLI::ArgumentMismatch& error) {
    const std::string what = error.what();  // "--rows: 1 required N missing"
    fail(what.substr(0, what.find(':')), " needs a value");
  } catch (const CLI::ValidationError& error) {
    const std::string what = error.what();  // "--rows: 0: expected an integer of at least 1"
    const std::size_t colon = what.find(':');
    fail_usage(what.substr(0, colon), what.substr(colon + 1));
  } catch (const CLI::ParseError& error) {
    fail(error.what());
  }
  refuse_unknown();
  for (const CLI::Option* option : get_options()) {
    const Texts& values = option->results();
    if (!may_be_empty_.contains(option) && std::find(values.begin(), values.end(), "") != values.end())
      fail(option->get_name(), " \"\": expected a value");
  }
  return true;
}

}  // namespace ssa
