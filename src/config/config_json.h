// Config structs as JSON, from their field lists.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "src/config/config_fields.h"

namespace ssa::config_fields {

/// Keys in the order of the lists.
using OrderedJson = nlohmann::ordered_json;

template <class T>
OrderedJson to_json(const T& value) {
  if constexpr (OptionalOf<T>::value) {
    return value ? to_json(*value) : OrderedJson(nullptr);
  } else if constexpr (Section<T>) {
    OrderedJson object = OrderedJson::object();
    visit_fields(Of<T>{}, [&](const auto& field) { object[std::string(field.key)] = to_json(value.*field.member); });
    return object;
  } else if constexpr (std::is_same_v<T, RowRanges>) {
    OrderedJson list = OrderedJson::array();
    for (const RowRange& range : value) list.push_back({range.first, range.last});
    return list;
  } else if constexpr (std::is_same_v<T, BatchSchedule>) {
    OrderedJson list = OrderedJson::array();
    for (const BatchSize& size : value) list.push_back({size.first_step, size.rows});
    return list;
  } else if constexpr (std::is_same_v<T, Sources>) {
    OrderedJson list = OrderedJson::array();
    for (const SourceConfig& source : value) list.push_back(to_json(source));
    return list;
  } else if constexpr (std::is_same_v<T, TaskPaths>) {
    OrderedJson object = OrderedJson::object();
    for (const TaskConfig& task : value) object[task.name] = task.path;
    return object;
  } else if constexpr (std::is_same_v<T, EvalPaths>) {
    if (value.empty()) return nullptr;
    if (value[0].name.empty()) return value[0].path;
    OrderedJson object = OrderedJson::object();
    for (const EvalConfig& set : value) object[set.name] = set.path;
    return object;
  } else if constexpr (std::is_enum_v<T>) {
    return std::string(name_of(value));
  } else {
    return value;
  }
}

/// A value as one line for the log: text without quotes; bytes that are not UTF-8 become U+FFFD.
template <class Json>
std::string plain_text(const Json& value) {
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return value.is_string() ? text.substr(1, text.size() - 2) : text;
}

}  // namespace ssa::config_fields
