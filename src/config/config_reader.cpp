#include "src/config/config_reader.h"

#include <algorithm>

#include "src/config/config_json.h"
#include "ssa/base/file.h"
#include "ssa/base/json_file.h"

namespace ssa::config_fields {
namespace {

/// What is left in the text at the byte where it stopped to be JSON.
std::string reason_of(std::string_view text, std::size_t byte) {
  constexpr std::size_t kShown = 20;
  if (byte == 0 || byte > text.size()) return "not valid JSON: the text ends too early";
  std::string_view rest = text.substr(byte - 1);
  rest = rest.substr(0, std::min(rest.find('\n'), rest.size()));
  return "not valid JSON: unexpected " + json_text(Json(std::string(rest.substr(0, kShown))));
}

std::string place_of(std::string_view text, std::size_t byte) {
  const std::string_view before = text.substr(0, std::min(text.size(), byte == 0 ? 0 : byte - 1));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t newline = before.rfind('\n');
  const std::size_t column = before.size() - (newline == std::string_view::npos ? 0 : newline + 1) + 1;
  return concat("line ", line, ", column ", column);
}

}  // namespace

std::string json_text(const Json& value) {
  constexpr std::size_t kLongest = 60;
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() <= kLongest) return text;
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  return text.substr(0, kLongest) + "...";
}

std::string one_line(const std::string& text) {
  constexpr std::size_t kLongestShown = 120;  // an error has a key and an argument
  const std::string escaped = plain_text(Json(text));
  const bool printable = std::none_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
  const bool replaced = escaped.find("\xEF\xBF\xBD") != std::string::npos;
  return shown(printable && !replaced ? text : escaped, kLongestShown);
}

std::string read_text(const std::filesystem::path& file, const std::string& context) {
  std::error_code unknown;  // reading the file reports why it cannot be accessed
  if (std::filesystem::is_directory(file, unknown))
    fail_usage(context, file.string(), ": is a directory, expected a JSON file");
  try {
    return read_file(file);
  } catch (const Error& error) {
    fail_usage(context, error.what());
  }
}

Json parse_json(std::string_view text, const std::string& name) {
  RepeatedKeys repeated;
  const auto watch = [&](int, Json::parse_event_t event, const Json& value) {
    if (const auto key = repeated.see(event, value))
      fail_usage(name, ": ", one_line(*key), ": given twice, expected once");
    return true;
  };
  return parse_json_or<Json>(text, watch, [&](const std::string& kind, std::optional<std::size_t> byte) {
    const std::string found = !kind.empty() ? kind + ", expected JSON"
                              : byte        ? concat(place_of(text, *byte), ": ", reason_of(text, *byte))
                                            : "not valid JSON: a number out of range";
    return UsageError(concat(ssa::shown(name), ": ", found));
  });
}

}  // namespace ssa::config_fields
