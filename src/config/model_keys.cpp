#include "src/config/model_keys.h"

#include <algorithm>
#include <array>
#include <utility>

#include "src/config/config_json.h"
#include "ssa/base/checksum.h"
#include "ssa/base/file.h"

namespace ssa::config_fields {
namespace {

namespace fs = std::filesystem;

/// A kind of model, as model_type and architectures name it.
struct Family {
  const char* model_type;
  const char* architecture;
};
constexpr Family kDense = {"llama", "LlamaForCausalLM"};
constexpr Family kGated = {"llama-nsa", "LlamaNSAForCausalLM"};

bool has(const Json& object, const char* key) { return object.contains(key) && !object[key].is_null(); }

std::string model_key(std::string_view key) { return std::string(kModelPrefix) + std::string(key); }

/// Whether model_type says so, or else architectures, the first of them.
bool is(const Family& family, const Json& object) {
  if (has(object, "model_type")) return object["model_type"] == family.model_type;
  return has(object, "architectures") && object["architectures"].is_array() && !object["architectures"].empty() &&
         object["architectures"][0] == family.architecture;
}

/// A key with which an architecture departs from LLaMA, and the value with which it does not.
struct Option {
  const char* key;
  Json neutral;  ///< null and this value are accepted
};

const std::vector<Option>& options() {
  static const std::vector<Option> list = {
      {"hidden_act", "silu"},
      {"attention_bias", false},
      {"mlp_bias", false},
      {"qkv_bias", false},
      {"use_bias", false},
      {"use_qkv_bias", false},
      {"use_qk_norm", false},
      {"qk_norm", false},
      {"qk_layernorm", false},
      {"clip_qkv", nullptr},
      {"sliding_window", nullptr},
      {"use_sliding_window", false},
      {"alibi", false},
      {"is_causal", true},
      {"rope_interleaved", false},
      {"rotary_pct", 1},
      {"partial_rotary_factor", 1},
      {"embedding_multiplier", 1},
      {"residual_multiplier", 1},
      {"logits_scaling", 1},
      {"attention_multiplier", nullptr},
      {"scale_emb", 1},
      {"scale_depth", nullptr},
      {"dim_model_base", nullptr},
      {"query_pre_attn_scalar", nullptr},
      {"attn_logit_softcapping", nullptr},
      {"final_logit_softcapping", nullptr},
      {"num_local_experts", 0},
      {"num_experts", 0},
      {"n_routed_experts", 0},
      {"kv_lora_rank", nullptr},
      {"quantization_config", nullptr},
  };
  return list;
}

/// Lists with a value per layer, and the value with which a layer is LLaMA's.
const std::array<Option, 2> kPerLayer = {{{"layer_types", "full_attention"}, {"no_rope_layers", 1}}};

void check_architecture(const Json& model, const Origin& origin) {
  if (has(model, "model_type") && !is(kDense, model) && !is(kGated, model))
    origin.fail(model_key("model_type"), "found ", json_text(model["model_type"]),
                ", expected \"llama\" or \"llama-nsa\": no other architecture is supported");
  if (has(model, "architectures")) {
    if (!model["architectures"].is_array())
      origin.fail(model_key("architectures"), "found ", json_text(model["architectures"]),
                  ", expected a list of names");
    for (const Json& name : model["architectures"]) {
      if (name != kDense.architecture && name != kGated.architecture)
        origin.fail(model_key("architectures"), "found ", json_text(name), ", expected ",
                    json_text(kDense.architecture), " or ", json_text(kGated.architecture));
      const Family& family = is(kDense, model) ? kDense : kGated;
      if (name != family.architecture)
        origin.fail(model_key("architectures"), "found ", json_text(name), ", expected ",
                    json_text(family.architecture), " as in ",
                    has(model, "model_type") ? concat("model_type ", family.model_type) : "the first one");
    }
  }
  for (const auto& [key, neutral] : options())
    if (has(model, key) && model[key] != neutral)
      origin.fail(model_key(key), "found ", json_text(model[key]), ", expected ", json_text(neutral));
  for (const auto& [key, each] : kPerLayer)
    if (has(model, key))
      for (const Json& layer : model[key])
        if (layer != each)
          origin.fail(model_key(key), "found ", json_text(layer), ", expected ", json_text(each), " in every layer");
}

/// Converts what different versions of transformers write about RoPE to rope_theta and rope_scaling. Both
/// rope_parameters, which transformers 5 saves, and rope_scaling may contain rope_theta.
void settle_rope(Json& model, const Origin& origin) {
  const auto take = [&](const char* from, const char* key, const Json& value) {
    if (has(model, key) && model[key] != value) {
      origin.fail(model_key(from), "has ", key, " ", value.dump(), ", the key of that name ", model[key].dump(),
                  "; expected one of them, or the same");
    }
    model[key] = value;
  };
  const auto is_object = [&](const char* key) { return model.contains(key) && model[key].is_object(); };
  // The scaling that an object describes, after rope_theta was taken from it; null if it describes none.
  const auto scaling_of = [&](const char* from) -> Json {
    Json scaling = model[from];
    if (has(scaling, "partial_rotary_factor") && scaling["partial_rotary_factor"] != 1)
      origin.fail(model_key(from), "partial_rotary_factor is ", json_text(scaling["partial_rotary_factor"]),
                  ", expected 1");
    scaling.erase("partial_rotary_factor");
    if (has(scaling, "rope_theta")) take(from, "rope_theta", scaling["rope_theta"]);
    scaling.erase("rope_theta");
    if (scaling.contains("type")) {
      if (!scaling.contains("rope_type")) scaling["rope_type"] = scaling["type"];
      scaling.erase("type");
    }
    if (scaling.empty() || (has(scaling, "rope_type") && scaling["rope_type"] == "default")) return nullptr;
    return scaling;
  };
  if (is_object("rope_scaling")) {
    Json scaling = scaling_of("rope_scaling");
    model["rope_scaling"] = std::move(scaling);
  }
  if (is_object("rope_parameters") && !model["rope_parameters"].empty()) {
    const Json scaling = scaling_of("rope_parameters");
    if (scaling.is_null() && has(model, "rope_scaling"))
      origin.fail(model_key("rope_parameters"), "has no scaling, rope_scaling has one; expected the same");
    take("rope_parameters", "rope_scaling", scaling);
  }
  // transformers 5 prefers the key outside of the object, transformers 4 the one inside.
  const char* key = "original_max_position_embeddings";
  if (is_object("rope_scaling") && has(model["rope_scaling"], key) && has(model, key) &&
      model[key] != model["rope_scaling"][key])
    origin.fail(model_key("rope_scaling"), "has ", key, " ", model["rope_scaling"][key].dump(),
                ", the key of that name ", model[key].dump(), "; expected one of them, or the same");
}

/// Derives num_key_value_heads and head_dim, which a config.json may omit.
void settle_heads(Json& model, const Origin& origin) {
  if (!has(model, "num_attention_heads")) return;
  if (!has(model, "num_key_value_heads")) model["num_key_value_heads"] = model["num_attention_heads"];
  if (!has(model, "hidden_size") || has(model, "head_dim")) return;
  const Json &hidden = model["hidden_size"], &heads = model["num_attention_heads"];
  if (!hidden.is_number_integer() || !heads.is_number_integer() || heads.get<std::int64_t>() <= 0) return;
  if (hidden.get<std::int64_t>() % heads.get<std::int64_t>() != 0) {
    origin.fail("model.head_dim", "missing, and hidden_size ", json_text(hidden),
                " is not a multiple of num_attention_heads ", json_text(heads));
  }
  model["head_dim"] = hidden.get<std::int64_t>() / heads.get<std::int64_t>();
}

/// A list of end-of-text ids becomes its first one.
void settle_token_ids(Json& model, const Origin& origin, std::vector<std::string>& notes) {
  const auto it = model.find("eos_token_id");
  if (it == model.end() || !it->is_array()) return;
  if (it->empty()) origin.fail("model.eos_token_id", "found an empty list, expected an id");
  if (it->size() > 1)
    notes.push_back(concat("eos_token_id: the first of ", it->dump(), " ends a text; the others are ignored"));
  const Json first = it->front();
  *it = first;
}

/// The published configuration class and this program have different defaults for these keys, so a config.json of the
/// published code must have them. The Python files of an export have the defaults of this program.
void check_sparse_keys(const Json& model, const Origin& origin) {
  if (!is(kGated, model) || has(model, "attention_method")) return;
  for (const char* key : {"block_size", "block_counts", "window_size"})
    if (!model.contains(key))
      origin.fail(model_key(key), "missing, expected it in a config.json of model_type ", kGated.model_type,
                  " that names no attention_method");
}

/// The defaults of LlamaConfig in every version of transformers.
ModelConfig transformers_defaults() {
  ModelConfig model;
  model.rms_norm_eps = 1e-6;
  model.rope_theta = 10000.0;
  model.initializer_range = 0.02;
  model.tie_word_embeddings = false;
  model.max_position_embeddings = 2048;
  model.bos_token_id = 1;
  model.eos_token_id = 2;
  return model;
}

/// The published modeling_llama_nsa.py, one per method, by checksum. Their config.json names no method.
constexpr std::pair<std::string_view, Method> kPublishedCode[] = {{"25a43b00b6e29ec8", Method::ssa},
                                                                  {"cd9d1b0456aaf9d2", Method::full},
                                                                  {"f32f1903a3146428", Method::moba},
                                                                  {"8cba0c478f6450b5", Method::nsa}};

std::optional<Method> published_method(const fs::path& directory) {
  const fs::path file = directory / "modeling_llama_nsa.py";
  if (!is_present(file)) return std::nullopt;
  const std::string text = read_file(file), checksum = xxh3_hex(text.data(), text.size());
  for (const auto& [known, method] : kPublishedCode)
    if (checksum == known) return method;
  return std::nullopt;
}

template <class Value>
std::optional<Known<Value>> stated(const Json& object, const char* key, const fs::path& file, const Origin& origin) {
  if (!has(object, key)) return std::nullopt;
  for (const Value value : kValues<Value>)
    if (object[key] == name_of(value)) return Known<Value>{value, concat(key, " in ", file.string()), true};
  origin.fail(model_key(key), "found ", json_text(object[key]), ", expected ", expectation<Value>(kAny));
}

}  // namespace

ModelKeys settle_model(Json& model, const Origin& origin) {
  ModelKeys keys;
  if (!model.is_object()) return keys;  // Reader reports it
  check_architecture(model, origin);
  check_sparse_keys(model, origin);
  settle_rope(model, origin);
  settle_heads(model, origin);
  settle_token_ids(model, origin, keys.notes);
  if (!origin.has_model_file() && !model.contains("model_type")) return keys;

  keys.defaults = transformers_defaults();
  const OrderedJson defaults = to_json(keys.defaults);
  std::string missing;
  for (const char* key :
       {"rms_norm_eps", "rope_theta", "tie_word_embeddings", "max_position_embeddings", "bos_token_id", "eos_token_id"})
    if (!model.contains(key)) missing += concat(missing.empty() ? "" : ", ", key, " ", defaults[key].dump());
  if (!missing.empty()) keys.notes.push_back("missing, with transformers' defaults: " + missing);
  if (has(model, "attention_dropout") && model["attention_dropout"] != 0)
    keys.notes.push_back(concat("attention_dropout ", model["attention_dropout"].dump(), " is not applied"));
  return keys;
}

void read_attention(const Json& object, const fs::path& file, const Origin& origin, HuggingFaceConfig& config) {
  config.dense = is(kDense, object);
  config.method = stated<Method>(object, "attention_method", file, origin);
  config.selection = stated<BlockSelection>(object, "selection", file, origin);
  if (config.method) {
    if (!config.selection)
      config.selection = {BlockSelection::exact, concat(file.string(), " has an attention_method, but no selection")};
    return;
  }
  if (config.dense) {
    const std::string named = has(object, "model_type") ? concat("model_type ", kDense.model_type)
                                                        : concat("architectures ", kDense.architecture);
    config.method = {Method::full, concat(file.string(), " has ", named)};
    if (!config.selection) config.selection = {BlockSelection::exact, config.method->reason};
    return;
  }
  const std::optional<Method> published = published_method(file.parent_path());
  if (!published) return;
  const std::string reason = concat((file.parent_path() / "modeling_llama_nsa.py").string(),
                                    " is the published file of ", name_of(*published));
  config.method = {*published, reason};
  if (!config.selection) config.selection = {BlockSelection::reference, reason};
}

}  // namespace ssa::config_fields
