// Typed access to the keys of an object of a JSON file. Errors state the file, the key, what was found and what was
// expected.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ssa/base/error.h"

namespace ssa {

class JsonFields {
 public:
  using Json = nlohmann::json;

  /// `where` is what errors call the object. `json` must outlive this.
  JsonFields(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    SSA_CHECK(json.is_object(), where_, ": a ", json.type_name(), ", expected an object");
  }

  const std::string& where() const { return where_; }
  bool has(const char* key) const { return json_.contains(key); }
  const Json& member(const char* key) const {
    const auto found = json_.find(key);
    SSA_CHECK(found != json_.end(), where_, ": no key ", key);
    return *found;
  }
  std::string text(const char* key) const {
    const Json& value = member(key);
    SSA_CHECK(value.is_string(), where_, ": ", key, " is a ", value.type_name(), ", expected a string");
    return value.get<std::string>();
  }
  /// An array of strings, at least one.
  std::vector<std::string> texts(const char* key) const {
    const Json& value = member(key);
    SSA_CHECK(value.is_array() && !value.empty(), where_, ": ", key, " is ", value.dump(),
              ", expected an array of strings");
    std::vector<std::string> all;
    for (const Json& item : value) {
      SSA_CHECK(item.is_string(), where_, ": ", key, " contains a ", item.type_name(), ", expected strings");
      all.push_back(item.get<std::string>());
    }
    return all;
  }
  /// An integer of at least 0.
  std::int64_t count(const char* key) const {
    const Json& value = member(key);
    SSA_CHECK(value.is_number_integer() && value.get<std::int64_t>() >= 0, where_, ": ", key, " is ", value.dump(),
              ", expected an integer of at least 0");
    return value.get<std::int64_t>();
  }
  void read(const char* key, std::string& to) const { to = text(key); }
  void read(const char* key, std::int64_t& to) const { to = count(key); }
  void read(const char* key, std::optional<std::int64_t>& to) const {
    if (has(key)) to = count(key);
  }
  JsonFields object(const char* key) const { return {member(key), where_ + ": " + key}; }
  /// An array of objects.
  std::vector<JsonFields> objects(const char* key) const {
    const Json& value = member(key);
    SSA_CHECK(value.is_array(), where_, ": ", key, " is a ", value.type_name(), ", expected an array");
    std::vector<JsonFields> all;
    for (const Json& item : value) all.emplace_back(item, concat(where_, ": ", key, "[", all.size(), "]"));
    return all;
  }

 private:
  const Json& json_;
  std::string where_;
};

}  // namespace ssa
