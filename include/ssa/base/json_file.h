// Reading JSON, with errors that name the file. Header only: the floors without JSON may not include it
// (tests/base/floors_test.cpp).
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/file_kind.h"

namespace ssa {

/// Throws Error unless `text` is JSON; `name` is what errors call it.
template <class Json = nlohmann::json>
Json parse_json(std::string_view text, const std::string& name, std::string_view expected = "JSON") {
  try {
    return Json::parse(text);
  } catch (const typename Json::parse_error& error) {
    if (const std::string kind = foreign_kind(text); !kind.empty()) fail(name, ": ", kind, ", expected ", expected);
    fail(name, ": not valid JSON at byte ", error.byte, ", expected ", expected);
  } catch (const typename Json::exception&) {
    fail(name, ": not valid JSON: a number out of range, expected ", expected);
  }
}

/// The same for a JSON object.
template <class Json = nlohmann::json>
Json parse_json_object(std::string_view text, const std::string& name) {
  Json value = parse_json<Json>(text, name, "a JSON object");
  SSA_CHECK(value.is_object(), name, ": JSON ", value.type_name(), ", expected a JSON object");
  return value;
}

/// Throws Error unless the file can be read and contains a JSON object.
template <class Json = nlohmann::json>
Json read_json_object(const std::filesystem::path& path) {
  return parse_json_object<Json>(read_file(path), path.string());
}

}  // namespace ssa
