#include "src/config/config_reader.h"

#include <algorithm>
#include <set>
#include <vector>

#include "src/config/config_json.h"
#include "ssa/base/file.h"

namespace ssa::config_fields {
namespace {

/// The cause in nlohmann's message, without its error codes: "syntax error while parsing ...".
std::string reason_of(const Json::exception& error) {
  std::string text = error.what();
  if (const auto end = text.find("] "); end != std::string::npos) text = text.substr(end + 2);
  if (text.starts_with("parse error")) {
    if (const auto end = text.find(": "); end != std::string::npos) text = text.substr(end + 2);
  }
  return text;
}

std::string place_of(std::string_view text, std::size_t byte) {
  const std::string_view before = text.substr(0, std::min(text.size(), byte == 0 ? 0 : byte - 1));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t newline = before.rfind('\n');
  const std::size_t column = before.size() - (newline == std::string_view::npos ? 0 : newline + 1) + 1;
  return concat("line ", line, ", column ", column);
}

}  // namespace

std::string quoted(const Json& value) {
  constexpr std::size_t kLongest = 60;
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

std::string one_line(const std::string& text) {
  const std::string escaped = plain_text(Json(text));
  const bool printable = std::none_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
  const bool replaced = escaped.find("\xEF\xBF\xBD") != std::string::npos;
  return printable && !replaced ? text : escaped;
}

std::string read_text(const std::filesystem::path& file, const std::string& context) {
  if (std::filesystem::is_directory(file)) fail_usage(context, file.string(), ": is a directory, expected a JSON file");
  try {
    return read_file(file);
  } catch (const Error& error) {
    fail_usage(context, error.what());
  }
}

Json parse_json(std::string_view text, const std::string& name) {
  struct Level {
    std::set<std::string> keys;
    std::string current;
  };
  std::vector<Level> levels;
  const auto watch = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) {
      levels.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      levels.pop_back();
    } else if (event == Json::parse_event_t::key) {
      Level& level = levels.back();
      level.current = value.get<std::string>();
      if (!level.keys.insert(level.current).second) {
        std::string path;
        for (const Level& each : levels) path += (path.empty() ? "" : ".") + each.current;
        fail_usage(name, ": ", one_line(path), ": given twice, expected once");
      }
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const Json::parse_error& error) {
    fail_usage(name, ": ", place_of(text, error.byte), ": ", reason_of(error));
  } catch (const Json::exception& error) {
    fail_usage(name, ": ", reason_of(error));
  }
}

}  // namespace ssa::config_fields
