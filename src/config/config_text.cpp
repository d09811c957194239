// The config as text: saved, logged, and its keys documented.
#include <algorithm>

#include "src/config/config_json.h"
#include "src/config/config_keys.h"
#include "ssa/config/config.h"

namespace ssa {
namespace {

using namespace config_fields;

void append_lines(const OrderedJson& value, const std::string& path, std::vector<std::string>& lines) {
  if (!value.is_object()) {
    lines.push_back(path + " = " + plain_text(value));
    return;
  }
  for (const auto& [key, inner] : value.items()) append_lines(inner, path.empty() ? key : path + "." + key, lines);
}

/// The value of a key, or "null" if a section around it is.
std::string text_at(const OrderedJson& root, const std::string& path) {
  const OrderedJson* at = &root;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    if (!at->is_object()) return "null";
    at = &at->at(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return plain_text(*at);
}

}  // namespace

std::string config_json(const Config& config) { return to_json(config).dump(2) + "\n"; }

std::vector<std::string> config_lines(const Config& config) {
  std::vector<std::string> lines;
  append_lines(to_json(config), "", lines);
  return lines;
}

std::vector<ConfigChange> config_changes(const Config& before, const Config& after) {
  const OrderedJson old_values = to_json(before), new_values = to_json(after);
  std::vector<ConfigChange> changes;
  for (const Key& key : keys()) {
    if (key.section) continue;
    const std::string old_value = text_at(old_values, key.path), new_value = text_at(new_values, key.path);
    if (old_value != new_value) changes.push_back({key.path, old_value, new_value, key.at_resume});
  }
  return changes;
}

bool is_config_key(std::string_view key) { return find_key(key) != nullptr; }

std::string config_keys_table() {
  std::string table = "| key | type | default | at a resume | meaning |\n|---|---|---|---|---|\n";
  for (const Key& key : keys()) {
    const bool has_no_value = key.section && key.default_text.empty() && !key.takes_text;
    if (has_no_value) continue;
    std::string default_text = key.default_text;
    if (default_text.empty()) {
      const Key* section = find_key(key.path.substr(0, key.path.rfind('.')));
      default_text = section->default_text == "null" ? "required in it" : "required";
    }
    const std::string type =
        key.type.starts_with("a ") || key.type.starts_with("an ") ? key.type.substr(key.type.find(' ') + 1) : key.type;
    table += "| `" + key.path + "` | " + type + " | " + default_text + " | " +
             (key.section ? "" : std::string(name_of(key.at_resume))) + " | " + key.meaning + " |\n";
  }
  return table;
}

}  // namespace ssa
