#include "ssa/config/hugging_face_config.h"

#include "src/config/config_json.h"
#include "ssa/model/attention_path.h"

namespace ssa {

using config_fields::OrderedJson;
using config_fields::to_json;

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
  // A version that scripts/check_export.py ran with. Without this key, 4.57 warns of a tokenizer bug that concerns
  // Mistral only.
  object["transformers_version"] = "4.57.0";
  return object.dump(2) + "\n";
}

std::string hugging_face_generation_json(const ModelConfig& model) {
  const OrderedJson object = {{"bos_token_id", to_json(model.bos_token_id)},
                              {"eos_token_id", model.eos_token_id},
                              {"pad_token_id", model.eos_token_id},
                              {"do_sample", false}};
  return object.dump(2) + "\n";
}

}  // namespace ssa
