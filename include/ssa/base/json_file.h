// Reading JSON, with errors that name the file. Header only: the floors without JSON may not include it
// (tests/base/floors_test.cpp).
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/file_kind.h"

namespace ssa {

/// Follows a JSON parser, to find keys that an object has twice: the parser keeps only the last.
class RepeatedKeys {
 public:
  /// To be called with each event of the parser's callback. Returns the path of the key, such as "train.seed", if its
  /// object has had it before.
  template <class Event, class Json>
  std::optional<std::string> see(Event event, const Json& value) {
    if (event == Event::object_start) {
      levels_.emplace_back();
    } else if (event == Event::object_end) {
      levels_.pop_back();
    } else if (event == Event::key) {
      Level& level = levels_.back();
      level.current = value.template get<std::string>();
      if (!level.keys.insert(level.current).second) {
        std::string path;
        for (const Level& each : levels_) path += (path.empty() ? "" : ".") + each.current;
        return path;
      }
    }
    return std::nullopt;
  }

 private:
  struct Level {
    std::set<std::string> keys;
    std::string current;
  };
  std::vector<Level> levels_;
};

/// For `watch` of the functions below: throws Error, with the file's `name`, for a key that an object has twice.
template <class Json = nlohmann::json>
typename Json::parser_callback_t refuse_repeated_keys(const std::string& name) {
  return [name, repeated = RepeatedKeys()](int, typename Json::parse_event_t event, const Json& value) mutable {
    if (const auto key = repeated.see(event, value)) fail(name, ": ", *key, ": given twice, expected once");
    return true;
  };
}

/// Parses JSON. If `text` is none, throws what `error_of(kind, byte)` returns: `kind` is what the text is instead
/// (file_kind.h), or empty; `byte`, from 1, is where it stops being JSON, or nullopt for a number out of range. `watch`
/// sees the events of the parser.
template <class Json, class ErrorOf>
Json parse_json_or(std::string_view text, const typename Json::parser_callback_t& watch, const ErrorOf& error_of) {
  try {
    return Json::parse(text, watch);
  } catch (const typename Json::parse_error& error) {
    throw error_of(foreign_kind(text), std::optional<std::size_t>(error.byte));
  } catch (const typename Json::exception&) {
    throw error_of(std::string(), std::optional<std::size_t>());
  }
}

/// Throws Error unless `text` is JSON; `name` is what errors call it. `watch` sees the events of the parser.
template <class Json = nlohmann::json>
Json parse_json(std::string_view text, const std::string& name, std::string_view expected = "JSON",
                const typename Json::parser_callback_t& watch = nullptr) {
  return parse_json_or<Json>(text, watch, [&](const std::string& kind, std::optional<std::size_t> byte) {
    const std::string found = !kind.empty() ? kind
                              : byte        ? concat("not valid JSON at byte ", *byte)
                                            : "not valid JSON: a number out of range";
    return Error(concat(shown(name), ": ", found, ", expected ", expected));
  });
}

/// The same for a JSON object.
template <class Json = nlohmann::json>
Json parse_json_object(std::string_view text, const std::string& name,
                       const typename Json::parser_callback_t& watch = nullptr) {
  Json value = parse_json<Json>(text, name, "a JSON object", watch);
  SSA_CHECK(value.is_object(), name, ": JSON ", value.type_name(), ", expected a JSON object");
  return value;
}

/// Throws Error unless the file can be read and contains a JSON object.
template <class Json = nlohmann::json>
Json read_json_object(const std::filesystem::path& path) {
  return parse_json_object<Json>(read_file(path), path.string());
}

/// The same for a file that only this project writes: there, a key that an object has twice is an error too.
inline nlohmann::json read_own_json_object(const std::filesystem::path& path) {
  check_input_file(path);
  return parse_json_object(read_file(path), path.string(), refuse_repeated_keys(path.string()));
}

}  // namespace ssa
