// The config as it is saved, logged and documented.
#include "src/config/config_json.h"
#include "src/config/config_keys.h"
#include "ssa/config/config.h"
#include "ssa/model/attention_path.h"

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

std::string hugging_face_config_json(const ModelConfig& model, Method method, BlockSelection selection,
                                     std::string_view torch_dtype) {
  OrderedJson object = to_json(model);
  object["model_type"] = "llama-nsa";
  object["architectures"] = {"LlamaNSAForCausalLM"};
  object["auto_map"] = {{"AutoConfig", "configuration_llama_nsa.LlamaNSAConfig"},
                        {"AutoModel", "modeling_llama_nsa.LlamaNSAModel"},
                        {"AutoModelForCausalLM", "modeling_llama_nsa.LlamaNSAForCausalLM"}};
  object["attention_method"] = std::string(name_of(method));
  object["inference_mode"] = branches_of(training_path(method), model).selected ? "sparse" : "full";
  object["selection"] = std::string(name_of(selection));
  object["use_cache"] = true;
  object["hidden_act"] = "silu";
  object["attention_bias"] = false;
  object["mlp_bias"] = false;
  object["torch_dtype"] = std::string(torch_dtype);
  // The oldest one the directory is tested with. Without it 4.57 warns that the tokenizer is a faulty one of Mistral's.
  object["transformers_version"] = "4.57.0";
  return object.dump(2) + "\n";
}

std::string hugging_face_generation_json(const ModelConfig& model) {
  const OrderedJson object = {{"bos_token_id", model.bos_token_id},
                              {"eos_token_id", model.eos_token_id},
                              {"pad_token_id", model.eos_token_id},
                              {"do_sample", false}};
  return object.dump(2) + "\n";
}

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
