// The components of a tokenizer.json: objects with a "type" and optional keys, alone or in a Sequence.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace ssa {

inline std::string type_of(const nlohmann::json& component) {
  if (component.is_object() && component.contains("type") && component["type"].is_string())
    return component["type"].get<std::string>();
  return "without a type";
}

/// `otherwise` if the key is missing or null.
inline bool flag(const nlohmann::json& component, const char* key, bool otherwise) {
  if (!component.contains(key) || component[key].is_null()) return otherwise;
  return component[key].get<bool>();
}

/// Calls use() for the component, or for each component of a Sequence; `list` is the key that holds them. A null
/// component is none.
template <class Use>
void each_component(const nlohmann::json& component, const char* list, Use&& use) {
  if (component.is_null()) return;
  if (type_of(component) != "Sequence") return use(component);
  for (const nlohmann::json& part : component.at(list)) each_component(part, list, use);
}

}  // namespace ssa
