// From a config's text to a Config: JSON, overrides and the model's file, then the structs, then checks across keys.
#include "ssa/config/config.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "src/config/config_reader.h"
#include "src/config/model_keys.h"
#include "ssa/base/file.h"
#include "ssa/config/hugging_face_config.h"
#include "ssa/data/mix.h"
#include "ssa/model/attention_path.h"

namespace ssa {
namespace {

using namespace config_fields;

/// Sets the value of a known key, and creates the sections that contain it if they are missing.
void put(Json& root, const std::string& path, Json value, const Origin& origin) {
  Json* at = &root;
  std::size_t begin = 0;
  for (std::size_t dot; (dot = path.find('.', begin)) != std::string::npos; begin = dot + 1) {
    Json& next = (*at)[path.substr(begin, dot - begin)];
    if (next.is_null()) next = Json::object();
    if (!next.is_object()) origin.fail(path.substr(0, dot), "found ", json_text(next), ", expected an object");
    at = &next;
  }
  (*at)[path.substr(begin)] = std::move(value);
}

bool is_utf8(const std::string& text) {
  try {
    Json(text).dump();
    return true;
  } catch (const Json::type_error&) {
    return false;
  }
}

struct Override {
  const Key* key;
  std::string argument;
  Json value;
};

Override parse_override(const std::string& argument) {
  const std::string shown = one_line(argument);
  const std::size_t equals = argument.find('=');
  if (equals == std::string::npos) fail_usage("--set ", shown, ": expected section.key=value");
  const std::string path = argument.substr(0, equals), text = argument.substr(equals + 1);
  const Key* key = find_key(path);
  if (key == nullptr) {
    fail_usage("--set ", shown, ": ", one_line(path), ": unknown key; did you mean ", nearest_key(path), "?");
  }
  if (!is_utf8(text)) fail_usage("--set ", shown, ": ", path, ": found bytes that are not UTF-8, expected UTF-8");
  Json value = Json::parse(text, nullptr, false);
  const bool json = !value.is_discarded() && (!key->takes_text || value.is_string() || value.is_null() ||
                                              (key->takes_object && value.is_object()));
  if (!json) {
    value = text;
  } else if (value.is_structured()) {
    value = parse_json(text, "--set " + shown);  // reports keys given twice
  }
  return {key, argument, std::move(value)};
}

void apply(Override override, Json& root, Origin& origin) {
  origin.add_override(override.key->path, override.argument);
  put(root, override.key->path, std::move(override.value), origin);
}

/// The file that the key `model` of the config `name` refers to.
Json read_model_file(const std::string& file, const std::string& name, Origin& origin) {
  const std::string context = (origin.overridden("model") ? "--set model" : name + ": model") + ": ";
  Json model = parse_json(read_text(file, context), file);
  if (!model.is_object()) fail_usage(file, ": found ", json_text(model), ", expected an object");
  origin.set_model_file(file);
  return model;
}

/// Mutually exclusive keys of a section; those of train have a default for the first one.
struct EitherOr {
  const char* section;
  std::vector<const char*> keys;
};
const EitherOr kEitherOr[] = {
    {"train", {"gradient_accumulation_steps", "global_batch_size", "global_batch_size_schedule"}},
    {"train", {"warmup_ratio", "warmup_steps"}},
    {"train", {"decay_ratio", "decay_steps"}},
    {"data", {"path", "sources"}}};

/// For mutually exclusive keys: a --set value overrides the other keys, an explicit value overrides the first one's
/// default.
void settle_either_or(Json& root, const Origin& origin) {
  for (const auto& [name, keys] : kEitherOr) {
    const auto it = root.find(name);
    if (it == root.end() || !it->is_object()) continue;  // Reader reports it
    Json& section = *it;
    const std::string prefix = std::string(name) + ".";
    // An empty list is no value either.
    const auto given = [&](const char* key) { return section.contains(key) && !section[key].empty(); };
    const auto set = [&](const char* key) { return origin.overridden(prefix + key) && given(key); };
    if (std::ranges::any_of(keys, set))
      for (const char* key : keys)
        if (!set(key)) section.erase(key);
    const char* found = nullptr;
    for (const char* key : keys) {
      if (!given(key)) continue;
      if (found)
        origin.fail(prefix + key, "found ", json_text(section[key]), " together with ", prefix, found, " ",
                    json_text(section[found]), ", expected only one of ", keys.size() == 2 ? "the two" : "the three");
      found = key;
    }
    if (found && found != keys[0] && !section.contains(keys[0])) section[keys[0]] = nullptr;
  }
}

/// Parameters, or activations of a micro-batch: far more than machines hold, far less than 64 bits count.
constexpr double kMostElements = 1e15;

void check_model(const ModelConfig& model, const Origin& origin) {
  if (model.num_attention_heads % model.num_key_value_heads != 0) {
    origin.fail("model.num_key_value_heads", "found ", model.num_key_value_heads,
                ", expected a divisor of num_attention_heads ", model.num_attention_heads);
  }
  if (model.head_dim % 2 != 0) origin.fail("model.head_dim", "found ", model.head_dim, ", expected an even number");
  const auto check_id = [&](const char* key, std::int64_t id) {
    if (id >= model.vocab_size) {
      origin.fail(std::string(kModelPrefix) + key, "found ", id, ", expected an id below vocab_size ",
                  model.vocab_size);
    }
  };
  if (model.bos_token_id) check_id("bos_token_id", *model.bos_token_id);
  check_id("eos_token_id", model.eos_token_id);
  const auto width = static_cast<double>(model.hidden_size), layers = static_cast<double>(model.num_hidden_layers);
  const auto attention = static_cast<double>(model.qkvg_width() + model.q_width());
  const double embeddings = static_cast<double>(model.vocab_size) * (model.tie_word_embeddings ? 1.0 : 2.0);
  const double parameters =
      width * (embeddings + layers * (attention + 3.0 * static_cast<double>(model.intermediate_size)));
  if (parameters > kMostElements) {
    origin.fail("model.hidden_size", "found ", model.hidden_size, " with ", model.num_hidden_layers,
                " layers: a model of ", parameters, " parameters, expected at most ", kMostElements);
  }
  if (const auto& rope = model.rope_scaling; rope && rope->high_freq_factor <= rope->low_freq_factor) {
    origin.fail("model.rope_scaling.high_freq_factor", "found ", rope->high_freq_factor,
                ", expected a number above low_freq_factor ", rope->low_freq_factor);
  }
}

void check_fp8(const Config& config, const Origin& origin) {
  const TrainConfig& train = config.train;
  for (const std::string& name : train.fp8_exclude)
    if (!is_excludable(config.model, name))
      origin.fail("train.fp8_exclude", "found ", json_text(name), ", expected ", excludable_names(config.model));
  if (train.fp8 == Fp8Mode::none && !train.fp8_exclude.empty())
    origin.fail("train.fp8_exclude", "found ", train.fp8_exclude.size(), " names, expected none with train.fp8 none");
  const Fp8Layers layers(config.model, train.fp8, train.fp8_exclude);
  if (train.fp8 != Fp8Mode::none && !layers.any())
    origin.fail("train.fp8_exclude", "found every linear layer, expected one that is left, or train.fp8 none");
  const std::string reason =
      why_unsupported(layers, config.model, train.per_device_train_batch_size * train.max_length);
  if (!reason.empty()) origin.fail("train.fp8", reason);
}

void check_run(const Config& config, const Origin& origin) {
  const TrainConfig& train = config.train;
  if (train.max_length > config.model.max_position_embeddings) {
    origin.fail("train.max_length", "found ", train.max_length, ", expected at most model.max_position_embeddings ",
                config.model.max_position_embeddings);
  }
  const ModelConfig& m = config.model;
  const std::int64_t widest =
      std::max({m.hidden_size, 2 * m.intermediate_size, m.qkvg_width(), m.num_key_value_heads * m.block_counts});
  const double tokens = static_cast<double>(train.per_device_train_batch_size) * static_cast<double>(train.max_length);
  const double activations = tokens * std::max(static_cast<double>(m.num_hidden_layers) * static_cast<double>(widest),
                                               static_cast<double>(m.vocab_size));
  if (activations > kMostElements) {
    origin.fail("train.max_length", "found ", train.max_length, " with train.per_device_train_batch_size ",
                train.per_device_train_batch_size, ": ", activations,
                " activations in a micro-batch of this model, expected at most ", kMostElements);
  }
  check_fp8(config, origin);
  if (train.max_steps == 0) origin.fail("train.max_steps", "found 0, expected -1 or an integer of at least 1");
  if (train.min_lr > train.learning_rate) {
    origin.fail("train.min_lr", "found ", train.min_lr, ", expected at most train.learning_rate ", train.learning_rate);
  }
  if (config.attention.selection == BlockSelection::reference && m.block_size < 2 &&
      branches_of(training_path(config.attention.method), m).selected) {
    origin.fail("attention.selection", "found reference with model.block_size ", m.block_size,
                ", expected exact, or blocks of at least 2 tokens");
  }
  if (config.attention.dense_warmup_steps > 0 && config.attention.method != Method::ssa) {
    origin.fail("attention.dense_warmup_steps", "found ", config.attention.dense_warmup_steps,
                ", expected 0 with attention.method ", name_of(config.attention.method), ": only ssa has two outputs");
  }
  const bool ends_at_min_lr = train.lr_scheduler_type == LrScheduler::cosine_with_min_lr ||
                              train.lr_scheduler_type == LrScheduler::warmup_stable_decay;
  if (train.min_lr > 0.0 && !ends_at_min_lr) {
    origin.fail("train.min_lr", "found ", train.min_lr, ", expected 0: train.lr_scheduler_type ",
                name_of(train.lr_scheduler_type), " has no minimum; cosine_with_min_lr has");
  }
  if (train.lr_scheduler_type != LrScheduler::warmup_stable_decay) {
    const auto refuse = [&](const char* key, const auto& found, const char* expected) {
      origin.fail(key, "found ", found, ", expected ", expected, ": train.lr_scheduler_type ",
                  name_of(train.lr_scheduler_type), " has no decay phase; warmup_stable_decay has");
    };
    const TrainConfig usual;
    if (train.decay_steps) refuse("train.decay_steps", *train.decay_steps, "null");
    if (train.decay_ratio && train.decay_ratio != usual.decay_ratio)
      refuse("train.decay_ratio", *train.decay_ratio, "no value");
    if (train.decay_type != usual.decay_type) refuse("train.decay_type", name_of(train.decay_type), "no value");
  }
  if (config.init_state != InitState::weights && !config.init_from)
    origin.fail("init_state", "found ", name_of(config.init_state), ", expected weights without init_from");
  const double save_steps = config.checkpoint.save_steps;
  if (save_steps >= 1.0 && save_steps != std::floor(save_steps)) {
    origin.fail("checkpoint.save_steps", "found ", save_steps, ", expected whole steps or a fraction below 1");
  }
  const DataConfig& data = config.data;
  constexpr std::int64_t kLongestBestFit = std::int64_t{1} << 24;  // its memory grows with the length of a row
  if (data.packing == Packing::best_fit && train.max_length > kLongestBestFit)
    origin.fail("data.packing", "found best_fit with train.max_length ", train.max_length, ", expected at most ",
                kLongestBestFit, " tokens per row");
  if (!data.path && data.sources.empty())
    origin.fail("data.path", "missing, expected a path (directory of the tokenized dataset, or a Megatron prefix) or ",
                "data.sources");
  double weights = 0;
  for (const SourceConfig& source : data.sources) weights += source.weight;
  for (const SourceConfig& source : data.sources)
    if (source.weight < Mix::kLeastShare * weights)
      origin.fail("data.sources", "found weight ", source.weight, " of ", source.name, ", expected at least ",
                  Mix::kLeastShare, " of the sum of the weights, ", weights);
  for (const auto& [key, value, none] : {std::tuple{"data.skip_train_samples", data.skip_train_samples, "-1 or 0"},
                                         {"data.max_train_samples", data.max_train_samples, "0"}})
    if (!data.sources.empty() && value > 0)
      origin.fail(key, "found ", value, ", expected ", none, " with data.sources");
  if (train.eval_steps > 0 && data.eval_path.empty() && train.eval_tasks.empty()) {
    origin.fail("train.eval_steps", "found ", train.eval_steps, ", expected 0 without data.eval_path");
  }
  for (const auto& [key, value] : {std::pair{"train.eval_tasks_steps", train.eval_tasks_steps},
                                   {"train.eval_tasks_limit", train.eval_tasks_limit},
                                   {"train.eval_tasks_num_fewshot", train.eval_tasks_num_fewshot}})
    if (value > 0 && train.eval_tasks.empty())
      origin.fail(key, "found ", value, ", expected 0 without train.eval_tasks");
  if (train.eval_tokenizer && train.eval_tasks.empty())
    origin.fail("train.eval_tokenizer", "found ", json_text(*train.eval_tokenizer),
                ", expected null without train.eval_tasks");
}

}  // namespace

bool Config::operator==(const Config& other) const {
  return model == other.model && init_from == other.init_from && init_state == other.init_state &&
         output_dir == other.output_dir && attention == other.attention && data == other.data && train == other.train &&
         checkpoint == other.checkpoint && distributed == other.distributed;
}

Config parse_config(std::string_view text, const std::string& name, const std::vector<std::string>& overrides) {
  Origin origin(name);
  Json root = parse_json(text, name);
  if (!root.is_object()) origin.fail("", "found ", json_text(root), ", expected an object");

  // Overrides of the model's keys wait until the model's own file is read.
  std::vector<Override> of_model;
  for (const std::string& argument : overrides) {
    Override each = parse_override(argument);
    if (each.key->path.starts_with(kModelPrefix))
      of_model.push_back(std::move(each));
    else
      apply(std::move(each), root, origin);
  }

  Config config;
  if (const auto it = root.find("model"); it != root.end()) {
    if (it->is_string()) {
      config.model_source = it->get<std::string>();
      *it = read_model_file(config.model_source, name, origin);
    }
    for (Override& each : of_model) apply(std::move(each), root, origin);
    const ModelKeys keys = settle_model(*it, origin);
    config.model = keys.defaults;
    config.model_notes = keys.notes;
  }
  if (const auto it = root.find("attention"); it != root.end()) {
    config.method_given = it->contains("method");
    config.selection_given = it->contains("selection");
  }
  settle_either_or(root, origin);
  Reader(origin).read(root, "", kAny, config);
  if (!config.train.gradient_accumulation_steps && !config.train.global_batch_size &&
      config.train.global_batch_size_schedule.empty())
    config.train.gradient_accumulation_steps = TrainConfig{}.gradient_accumulation_steps;
  check_model(config.model, origin);
  check_run(config, origin);
  return config;
}

Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  return parse_config(read_text(file, ""), file.string(), overrides);
}

HuggingFaceConfig read_hugging_face_config(const std::filesystem::path& file) {
  Origin origin(file.string());
  origin.set_model_file(file.string());
  Json object = parse_json(read_file(file), file.string());
  HuggingFaceConfig config;
  const ModelKeys keys = settle_model(object, origin);
  config.model = keys.defaults;
  config.notes = keys.notes;
  Reader(origin).read(object, "model", kAny, config.model);
  check_model(config.model, origin);
  read_attention(object, file, origin, config);
  return config;
}

ModelConfig load_model_config(const std::filesystem::path& file) { return read_hugging_face_config(file).model; }

std::int64_t min_document_tokens(const SourceConfig& source, const DataConfig& data) {
  return source.min_document_tokens.value_or(data.min_document_tokens);
}

std::vector<std::string> training_paths(const DataConfig& data) {
  if (data.path) return {*data.path};
  std::vector<std::string> paths;
  for (const SourceConfig& source : data.sources) paths.push_back(source.path);
  return paths;
}

BatchSizes batch_sizes(const TrainConfig& train, std::int64_t ranks) {
  const std::int64_t rows = train.per_device_train_batch_size * ranks;
  const auto check = [&](const char* key, std::int64_t found) {
    if (found % rows != 0)
      fail_usage(key, ": found ", found, ", expected a multiple of ", rows, " (", train.per_device_train_batch_size,
                 " rows per micro-batch on ", ranks, " ranks)");
  };
  for (const BatchSize& size : train.global_batch_size_schedule) check("train.global_batch_size_schedule", size.rows);
  if (!train.global_batch_size_schedule.empty()) return BatchSizes(train.global_batch_size_schedule);
  if (!train.global_batch_size) return train.gradient_accumulation_steps.value_or(1) * rows;
  check("train.global_batch_size", *train.global_batch_size);
  return *train.global_batch_size;
}

}  // namespace ssa
