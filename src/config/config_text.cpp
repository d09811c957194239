// The config as text: saved, logged, and its keys documented.
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

}  // namespace

std::string config_json(const Config& config) { return to_json(config).dump(2) + "\n"; }

std::vector<std::string> config_lines(const Config& config) {
  std::vector<std::string> lines;
  append_lines(to_json(config), "", lines);
  return lines;
}

std::string config_keys_table() {
  std::string table = "| key | type | default | meaning |\n|---|---|---|---|\n";
  for (const Key& key : keys()) {
    const bool holds_no_value = key.section && key.default_text.empty() && !key.takes_text;
    if (holds_no_value) continue;
    std::string default_text = key.default_text;
    if (default_text.empty()) {
      const Key* section = find_key(key.path.substr(0, key.path.rfind('.')));
      default_text = section->default_text == "null" ? "required in it" : "required";
    }
    const std::string type =
        key.type.starts_with("a ") || key.type.starts_with("an ") ? key.type.substr(key.type.find(' ') + 1) : key.type;
    table += "| `" + key.path + "` | " + type + " | " + default_text + " | " + key.meaning + " |\n";
  }
  return table;
}

}  // namespace ssa
