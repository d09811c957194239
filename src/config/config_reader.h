// Reading config values from JSON, with errors that name their origin: a file or an argument of --set.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "src/config/config_fields.h"
#include "src/config/config_keys.h"
#include "ssa/base/error.h"

namespace ssa::config_fields {

using Json = nlohmann::json;

inline constexpr std::string_view kModelPrefix = "model.";

/// A value as errors show it: "text", 1.5, an object; cut off if it is long.
std::string json_text(const Json& value);

/// Text for an error of one line: unchanged, or escaped as in JSON if it has control characters or is not UTF-8.
std::string one_line(const std::string& text);

/// The content of a file. Throws UsageError; `context` is put before its message.
std::string read_text(const std::filesystem::path& file, const std::string& context);

/// Parses JSON. Throws UsageError with line and column, also for a key that occurs twice in an object. `name` is what
/// errors call the text.
Json parse_json(std::string_view text, const std::string& name);

/// Where each value came from: a file or an argument of --set. Every error begins with it.
class Origin {
 public:
  explicit Origin(std::string file) : file_(std::move(file)) {}
  void set_model_file(std::string file) { model_file_ = std::move(file); }
  void add_override(const std::string& path, const std::string& argument) { overrides_[path] = argument; }

  bool has_model_file() const { return !model_file_.empty(); }
  bool overridden(const std::string& path) const { return overrides_.count(path) > 0; }

  /// The key as written in its file: a model file has no "model." before its keys.
  std::string shown(const std::string& path) const {
    const bool in_model_file = !model_file_.empty() && path.starts_with(kModelPrefix) && !override_of(path);
    return in_model_file ? path.substr(kModelPrefix.size()) : path;
  }

  template <class... Parts>
  [[noreturn]] void fail(const std::string& path, const Parts&... parts) const {
    const std::string key = one_line(shown(path));
    if (const std::string* argument = override_of(path)) {
      fail_usage("--set ", one_line(*argument), ": ", key, ": ", parts...);
    }
    const bool in_model_file = !model_file_.empty() && path.starts_with(kModelPrefix);
    fail_usage(in_model_file ? model_file_ : file_, ": ", key, key.empty() ? "" : ": ", parts...);
  }

 private:
  /// The --set argument that gave this key, or a section around it, its value; nullptr if a file did.
  const std::string* override_of(std::string path) const {
    const bool of_model = path.starts_with(kModelPrefix);
    for (;;) {
      if (of_model && path == "model" && !model_file_.empty()) return nullptr;
      if (const auto it = overrides_.find(path); it != overrides_.end()) return &it->second;
      const std::size_t end = path.find_last_of(".[");  // data.sources[0].path
      if (end == std::string::npos) return nullptr;
      path.resize(end);
    }
  }

  std::string file_, model_file_;
  std::map<std::string, std::string> overrides_;
};

/// Reads values into fields of any type that the field lists have.
class Reader {
 public:
  explicit Reader(const Origin& origin) : origin_(origin) {}

  template <class T>
  void read(const Json& value, const std::string& path, Range range, T& out) const {
    if constexpr (OptionalOf<T>::value) {
      if (value.is_null())
        out.reset();
      else
        read(value, path, range, out.emplace());
    } else if constexpr (Section<T>) {
      if (!value.is_object()) fail_mismatch<T>(value, path, range);
      read_section(value, path, out);
    } else if constexpr (std::is_same_v<T, Sources>) {
      if (!value.is_array()) fail_mismatch<T>(value, path, range);
      out.clear();
      for (std::size_t i = 0; i < value.size(); ++i)
        read_source(value[i], concat(path, "[", i, "]"), out.emplace_back());
      std::ranges::sort(out, {}, &SourceConfig::name);
      const auto twice = std::ranges::adjacent_find(out, {}, &SourceConfig::name);
      if (twice != out.end())
        origin_.fail(path, "found the name ", json_text(twice->name), " twice, expected one each");
    } else {
      if (!convert(value, range, out)) fail_mismatch<T>(value, path, range);
    }
  }

 private:
  template <class Struct>
  void read_section(const Json& object, const std::string& path, Struct& out) const {
    const std::string prefix = path.empty() ? "" : path + ".";
    check_unknown_keys<Struct>(object, prefix);
    read_fields(object, prefix, out);
  }

  /// Unknown keys are not examined.
  template <class Struct>
  void read_fields(const Json& object, const std::string& prefix, Struct& out) const {
    visit_fields(Of<Struct>{}, [&](const auto& field) {
      using Value = typename std::decay_t<decltype(field)>::value_type;
      const std::string key = prefix + std::string(field.key);
      const auto it = object.find(std::string(field.key));
      if (it != object.end()) return read(*it, key, field.range, out.*field.member);
      if (field.required)
        origin_.fail(key, "missing, expected ", expectation<Value>(field.range), " (", field.meaning, ")");
      if constexpr (Section<Value>) read_section(Json::object(), key, out.*field.member);
    });
  }

  /// A name that is a part of keys in metrics.jsonl.
  void check_name(const std::string& name, const std::string& path) const {
    const auto good = [](char c) {
      return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || c == '_' || c == '-' ||
             c == '.';
    };
    constexpr std::size_t kLongestName = 64;
    if (name.empty() || name.size() > kLongestName || !std::ranges::all_of(name, good))
      origin_.fail(path, "found the name ", json_text(name), ", expected 1 to ", kLongestName,
                   " letters, digits, '.', '_' or '-'");
  }

  void read_source(const Json& item, const std::string& path, SourceConfig& out) const {
    if (!item.is_object()) origin_.fail(path, "found ", json_text(item), ", expected an object");
    if (item.contains("name") && item["name"].is_string()) check_name(item["name"].get<std::string>(), path + ".name");
    read_fields(item, path + ".", out);
    for (const auto& [name, value] : item.items())
      if (name != "path" && name != "weight" && name != "name" && name != "min_document_tokens")
        origin_.fail(path + "." + name, "unknown key, expected path, weight, name and min_document_tokens");
    if (!item.contains("name")) {
      const std::filesystem::path file = std::filesystem::path(out.path).lexically_normal();
      out.name = (file.has_filename() ? file : file.parent_path()).filename().string();
    }
    check_name(out.name, path + ".name");
  }

  bool convert(const Json& value, Range range, EvalPaths& out) const {
    out.clear();
    if (value.is_null()) return true;
    if (value.is_string()) return convert(value, range, out.emplace_back().path);
    if (!value.is_object() || value.empty()) return false;
    for (const auto& [name, path] : value.items()) {
      check_name(name, "data.eval_path");
      if (!convert(path, range, out.emplace_back(EvalConfig{name, ""}).path)) return false;
    }
    return true;
  }

  static bool convert(const Json& value, Range range, TaskPaths& out) {
    out.clear();
    if (!value.is_object()) return false;
    for (const auto& [name, path] : value.items())
      if (name.empty() || !convert(path, range, out.emplace_back(TaskConfig{name, ""}).path)) return false;
    return true;
  }

  // Each convert() returns false if `value` is not of the field's type or not within `range`.

  static bool convert(const Json& value, Range, bool& out) {
    if (!value.is_boolean()) return false;
    out = value.get<bool>();
    return true;
  }

  /// Every text in the config is a path.
  static bool convert(const Json& value, Range, std::string& out) {
    if (!value.is_string()) return false;
    out = value.get<std::string>();
    return !out.empty();
  }

  /// Numbers without an upper bound are used as f32: one that it holds only as 0, infinity or a subnormal number would
  /// mean something else.
  static bool fits_float(double number) {
    const double size = std::abs(number);
    return number == 0 || (size >= std::numeric_limits<float>::min() && size <= std::numeric_limits<float>::max());
  }

  static bool convert(const Json& value, Range range, double& out) {
    if (!value.is_number()) return false;
    out = value.get<double>();
    return range.holds(out) && (std::isfinite(range.high) || fits_float(out));
  }

  /// 1e3 is an integer too, up to the size that a double represents exactly.
  static bool convert(const Json& value, Range range, std::int64_t& out) {
    constexpr double kExact = 9007199254740992.0;  // 2^53
    if (!value.is_number()) return false;
    const auto number = value.get<double>();
    const bool whole = value.is_number_float() ? number == std::floor(number) && std::abs(number) <= kExact
                                               : number < 9223372036854775808.0;  // 2^63
    if (!whole || !range.holds(number)) return false;
    out = value.get<std::int64_t>();
    return true;
  }

  static bool convert(const Json& value, Range, RowRanges& out) {
    if (!value.is_array()) return false;
    out.clear();
    for (const Json& pair : value) {
      if (!pair.is_array() || pair.size() != 2) return false;
      RowRange& range = out.emplace_back();
      if (!convert(pair[0], at_least(0), range.first) || !convert(pair[1], at_least(0), range.last)) return false;
      if (range.last < range.first || range.last > (std::int64_t{1} << 53)) return false;
    }
    return true;
  }

  static bool convert(const Json& value, Range range, BatchSchedule& out) {
    if (!value.is_array()) return false;
    out.clear();
    for (const Json& pair : value) {
      if (!pair.is_array() || pair.size() != 2) return false;
      BatchSize size;
      if (!convert(pair[0], between(0, kMostSteps), size.first_step) || !convert(pair[1], range, size.rows))
        return false;
      if (out.empty() ? size.first_step != 0 : size.first_step <= out.back().first_step) return false;
      out.push_back(size);
    }
    return true;
  }

  static bool convert(const Json& value, Range, Names& out) {
    if (!value.is_array()) return false;
    out.clear();
    for (const Json& name : value) {
      if (!name.is_string()) return false;
      out.push_back(name.get<std::string>());
    }
    return true;
  }

  template <class E>
  static bool convert(const Json& value, Range, E& out) {
    static_assert(std::is_enum_v<E>);
    for (const E each : kValues<E>)
      if (value.is_string() && value.get<std::string>() == name_of(each)) {
        out = each;
        return true;
      }
    return false;
  }

  template <class T>
  [[noreturn]] void fail_mismatch(const Json& value, const std::string& path, Range range) const {
    const bool too_fine = std::is_same_v<T, double> && value.is_number() && range.holds(value.get<double>());
    origin_.fail(path, "found ", json_text(value), ", expected ", expectation<T>(range),
                 too_fine ? " that a 32-bit float holds: 0, or 1.2e-38 to 3.4e38 in size" : "");
  }

  template <class Struct>
  void check_unknown_keys(const Json& object, const std::string& prefix) const {
    for (const auto& [name, value] : object.items()) {
      const std::string path = prefix + name;
      if (find_key(path) != nullptr && name.find('.') == std::string::npos) continue;
      const std::string& nearest = nearest_key(path);
      if constexpr (std::is_same_v<Struct, ModelConfig>) {
        // A Hugging Face config.json has many keys without a meaning here. Only a likely misspelling is an error: a key
        // close to a known one that the object lacks.
        constexpr std::size_t kMisspelled = 2;
        const bool lacking = nearest.starts_with(kModelPrefix) && !object.contains(nearest.substr(kModelPrefix.size()));
        if (!lacking || edit_distance(path, nearest) > kMisspelled) continue;
      }
      origin_.fail(path, "unknown key; did you mean ", origin_.shown(nearest), "?");
    }
  }

  const Origin& origin_;
};

}  // namespace ssa::config_fields
