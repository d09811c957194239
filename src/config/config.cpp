// Reading the config: text -> JSON -> overrides and the model's file -> structs -> checks across keys.
#include "ssa/config/config.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "src/config/config_json.h"
#include "src/config/config_keys.h"
#include "ssa/base/error.h"

namespace ssa {
namespace {

using namespace config_fields;
using Json = nlohmann::json;

constexpr std::string_view kModelPrefix = "model.";

/// A value as an error quotes it: "text", 1.5, an object; cut if it is long.
std::string quoted(const Json& value) {
  constexpr std::size_t kLongest = 60;
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

/// Text from outside on one line: as it is, or as JSON writes it if it holds control characters or is not UTF-8.
std::string one_line(const std::string& text) {
  const std::string escaped = plain_text(Json(text));
  const bool printable = std::none_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
  const bool replaced = escaped.find("\xEF\xBF\xBD") != std::string::npos;
  return printable && !replaced ? text : escaped;
}

/// Where values came from: the beginning of every error.
class Origin {
 public:
  explicit Origin(std::string file) : file_(std::move(file)) {}
  void set_model_file(std::string file) { model_file_ = std::move(file); }
  void add_override(const std::string& path, const std::string& argument) { overrides_[path] = argument; }

  bool overridden(const std::string& path) const { return overrides_.count(path) > 0; }

  /// Path of a key as it stands in its file: a model file has no "model." before its keys.
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
  /// The --set argument that gave the key or a section around it its value; nullptr if a file did.
  const std::string* override_of(std::string path) const {
    const bool of_model = path.starts_with(kModelPrefix);
    for (;;) {
      if (of_model && path == "model" && !model_file_.empty()) return nullptr;
      if (const auto it = overrides_.find(path); it != overrides_.end()) return &it->second;
      const std::size_t dot = path.rfind('.');
      if (dot == std::string::npos) return nullptr;
      path.resize(dot);
    }
  }

  std::string file_, model_file_;
  std::map<std::string, std::string> overrides_;
};

std::string read_text(const std::filesystem::path& file, const std::string& whose) {
  std::error_code unreadable;  // opening it says why
  if (std::filesystem::is_directory(file, unreadable))
    fail_usage(whose, file.string(), ": is a directory, expected a JSON file");
  std::ifstream in(file, std::ios::binary);
  if (!in) fail_usage(whose, file.string(), ": cannot be opened: ", std::strerror(errno));
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

/// nlohmann's account of a parse error, without its codes: "syntax error while parsing ...".
std::string reason_of(const Json::exception& error) {
  std::string text = error.what();
  if (const auto end = text.find("] "); end != std::string::npos) text = text.substr(end + 2);
  if (text.starts_with("parse error")) {
    if (const auto end = text.find(": "); end != std::string::npos) text = text.substr(end + 2);
  }
  return text;
}

std::string place_of(std::string_view text, std::size_t byte) {
  const std::string_view before = text.substr(0, std::min(text.size(), byte == 0 ? 0 : byte - 1));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t newline = before.rfind('\n');
  const std::size_t column = before.size() - (newline == std::string_view::npos ? 0 : newline + 1) + 1;
  return concat("line ", line, ", column ", column);
}

/// Parses JSON; a key that stands twice in an object is an error.
Json parse_json(std::string_view text, const std::string& name) {
  struct Level {
    std::set<std::string> keys;
    std::string current;
  };
  std::vector<Level> levels;
  const auto watch = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) {
      levels.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      levels.pop_back();
    } else if (event == Json::parse_event_t::key) {
      Level& level = levels.back();
      level.current = value.get<std::string>();
      if (!level.keys.insert(level.current).second) {
        std::string path;
        for (const Level& each : levels) path += (path.empty() ? "" : ".") + each.current;
        fail_usage(name, ": ", one_line(path), ": stands twice, expected once");
      }
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const Json::parse_error& error) {
    fail_usage(name, ": ", place_of(text, error.byte), ": ", reason_of(error));
  } catch (const Json::exception& error) {
    fail_usage(name, ": ", reason_of(error));
  }
}

class Reader {
 public:
  explicit Reader(const Origin& origin) : origin_(origin) {}

  template <class Struct>
  void read(const Json& object, const std::string& path, Range, Struct& out) const requires Section<Struct> {
    if (!object.is_object()) fail_type<Struct>(object, path, {});
    const std::string prefix = path.empty() ? "" : path + ".";
    refuse_unknown_keys<Struct>(object, prefix);
    visit_fields(Of<Struct>{}, [&](const auto& field) {
      using Value = typename std::decay_t<decltype(field)>::value_type;
      const std::string key = prefix + std::string(field.key);
      const auto it = object.find(std::string(field.key));
      if (it != object.end()) return read(*it, key, field.range, out.*field.member);
      if (field.required) {
        origin_.fail(key, "missing, expected ", expectation<Value>(field.range), " (", field.meaning, ")");
      }
      if constexpr (Section<Value>) read(Json::object(), key, field.range, out.*field.member);
    });
  }

  template <class T>
  void read(const Json& value, const std::string& path, Range range, std::optional<T>& out) const {
    if (value.is_null()) {
      out.reset();
    } else {
      read(value, path, range, out.emplace());
    }
  }

  void read(const Json& value, const std::string& path, Range range, bool& out) const {
    if (!value.is_boolean()) fail_type<bool>(value, path, range);
    out = value.get<bool>();
  }

  void read(const Json& value, const std::string& path, Range range, std::string& out) const {
    if (!value.is_string()) fail_type<std::string>(value, path, range);
    out = value.get<std::string>();
    if (out.empty()) origin_.fail(path, "found empty text, expected a path");
  }

  void read(const Json& value, const std::string& path, Range range, double& out) const {
    if (!value.is_number() || !range.holds(value.get<double>())) fail_type<double>(value, path, range);
    out = value.get<double>();
  }

  /// 1e3 is an integer too, as long as a double counts exactly.
  void read(const Json& value, const std::string& path, Range range, std::int64_t& out) const {
    constexpr double kExact = 9007199254740992.0;  // 2^53
    const double number = value.is_number() ? value.get<double>() : 0.5;
    const bool whole = value.is_number_float() ? number == std::floor(number) && std::abs(number) <= kExact
                                               : value.is_number() && number < 9223372036854775808.0;  // 2^63
    if (!whole || !range.holds(number)) fail_type<std::int64_t>(value, path, range);
    out = value.get<std::int64_t>();
  }

  template <class E>
  void read(const Json& value, const std::string& path, Range range, E& out) const requires std::is_enum_v<E> {
    for (const E each : kValues<E>) {
      if (value.is_string() && value.get<std::string>() == name_of(each)) {
        out = each;
        return;
      }
    }
    fail_type<E>(value, path, range);
  }

 private:
  template <class T>
  [[noreturn]] void fail_type(const Json& value, const std::string& path, Range range) const {
    origin_.fail(path, "found ", quoted(value), ", expected ", expectation<T>(range));
  }

  template <class Struct>
  void refuse_unknown_keys(const Json& object, const std::string& prefix) const {
    for (const auto& [name, value] : object.items()) {
      const std::string path = prefix + name;
      if (find_key(path) != nullptr && name.find('.') == std::string::npos) continue;
      const std::string& nearest = nearest_key(path);
      if constexpr (std::is_same_v<Struct, ModelConfig>) {
        // A HF config.json has many keys that mean nothing here. Only what looks like a misspelt key is refused: one
        // that is close to a known one which the object lacks.
        constexpr std::size_t kMisspelt = 2;
        const bool lacking = nearest.starts_with(kModelPrefix) && !object.contains(nearest.substr(kModelPrefix.size()));
        if (!lacking || edit_distance(path, nearest) > kMisspelt) continue;
      }
      origin_.fail(path, "unknown key; did you mean ", origin_.shown(nearest), "?");
    }
  }

  const Origin& origin_;
};

/// Puts `value` at a known key's path, making the objects on the way that are not there.
void put(Json& root, const std::string& path, Json value, const Origin& origin) {
  Json* at = &root;
  std::size_t begin = 0;
  for (std::size_t dot; (dot = path.find('.', begin)) != std::string::npos; begin = dot + 1) {
    Json& next = (*at)[path.substr(begin, dot - begin)];
    if (next.is_null()) next = Json::object();
    if (!next.is_object()) origin.fail(path.substr(0, dot), "found ", quoted(next), ", expected an object");
    at = &next;
  }
  (*at)[path.substr(begin)] = std::move(value);
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
  Json value = Json::parse(text, nullptr, false);
  const bool json = !value.is_discarded() &&
                    (!key->takes_text || value.is_string() || value.is_null() || (key->section && value.is_object()));
  if (!json) {
    value = text;
  } else if (value.is_structured()) {
    value = parse_json(text, "--set " + shown);  // refuses keys that stand twice
  }
  return {key, argument, std::move(value)};
}

struct EitherOr {
  const char *usual, *instead;
};
constexpr EitherOr kEitherOr[] = {{"gradient_accumulation_steps", "global_batch_size"},
                                  {"warmup_ratio", "warmup_steps"}};

/// Of two keys that exclude each other, one that --set gives takes the place of the other, and one that is given takes
/// the place of the other's default.
void settle_either_or(Json& root, const Origin& origin) {
  const auto it = root.find("train");
  if (it == root.end() || !it->is_object()) return;  // the reader says so
  Json& train = *it;
  const auto given = [&](const char* key) { return train.contains(key) && !train[key].is_null(); };
  for (const auto& [usual, instead] : kEitherOr) {
    const bool set_usual = origin.overridden(std::string("train.") + usual) && given(usual);
    const bool set_instead = origin.overridden(std::string("train.") + instead) && given(instead);
    if (set_usual && !set_instead) train[instead] = nullptr;
    if (set_instead && !set_usual) train[usual] = nullptr;
    if (given(usual) && given(instead)) {
      origin.fail(std::string("train.") + instead, "found ", quoted(train[instead]), " beside train.", usual, " ",
                  quoted(train[usual]), ", expected only one of the two");
    }
    if (given(instead) && !train.contains(usual)) train[usual] = nullptr;
  }
}

/// Brings a HF config.json to the keys of ModelConfig and refuses an architecture that is another one.
void settle_model(Json& model, const Origin& origin) {
  if (!model.is_object()) return;  // the reader says so
  const auto expect = [&](const char* key, const Json& expected) {
    if (model.contains(key) && model[key] != expected) {
      origin.fail(std::string(kModelPrefix) + key, "found ", quoted(model[key]), ", expected ", quoted(expected));
    }
  };
  expect("hidden_act", "silu");
  expect("attention_bias", false);
  expect("mlp_bias", false);
  // What transformers 5 saves in place of rope_theta and rope_scaling, or beside them.
  if (const auto it = model.find("rope_parameters"); it != model.end() && it->is_object() && !it->empty()) {
    const auto take = [&](const char* key, const Json& value) {
      if (model.contains(key) && !model[key].is_null() && model[key] != value) {
        origin.fail("model.rope_parameters", "says ", key, " ", value.dump(), ", the key of that name ",
                    model[key].dump(), "; expected one of them, or the same");
      }
      model[key] = value;
    };
    Json scaling = *it;
    if (scaling.contains("rope_theta")) take("rope_theta", scaling["rope_theta"]);
    scaling.erase("rope_theta");
    take("rope_scaling", scaling);
  }
  if (const auto it = model.find("rope_scaling"); it != model.end() && it->is_object()) {
    if (it->contains("type")) {
      if (!it->contains("rope_type")) (*it)["rope_type"] = (*it)["type"];
      it->erase("type");
    }
    if (it->contains("rope_type") && (*it)["rope_type"] == "default") *it = nullptr;
  }
  const auto present = [&](const char* key) { return model.contains(key) && !model[key].is_null(); };
  if (present("num_attention_heads") && !present("num_key_value_heads")) {
    model["num_key_value_heads"] = model["num_attention_heads"];
  }
  if (present("num_attention_heads") && present("hidden_size") && !present("head_dim")) {
    const Json &hidden = model["hidden_size"], &heads = model["num_attention_heads"];
    if (hidden.is_number_integer() && heads.is_number_integer() && heads.get<std::int64_t>() > 0) {
      if (hidden.get<std::int64_t>() % heads.get<std::int64_t>() != 0) {
        origin.fail("model.head_dim", "missing, and hidden_size ", quoted(hidden),
                    " is not a multiple of num_attention_heads ", quoted(heads));
      }
      model["head_dim"] = hidden.get<std::int64_t>() / heads.get<std::int64_t>();
    }
  }
}

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
  check_id("bos_token_id", model.bos_token_id);
  check_id("eos_token_id", model.eos_token_id);
  if (const auto& rope = model.rope_scaling; rope && rope->high_freq_factor <= rope->low_freq_factor) {
    origin.fail("model.rope_scaling.high_freq_factor", "found ", rope->high_freq_factor,
                ", expected a number above low_freq_factor ", rope->low_freq_factor);
  }
}

void check_run(const Config& config, const Origin& origin) {
  const TrainConfig& train = config.train;
  if (train.max_length > config.model.max_position_embeddings) {
    origin.fail("train.max_length", "found ", train.max_length, ", expected at most model.max_position_embeddings ",
                config.model.max_position_embeddings);
  }
  if (train.max_steps == 0) origin.fail("train.max_steps", "found 0, expected -1 or an integer of at least 1");
  if (train.min_lr > train.learning_rate) {
    origin.fail("train.min_lr", "found ", train.min_lr, ", expected at most train.learning_rate ", train.learning_rate);
  }
  const bool ends_at_min_lr = train.lr_scheduler_type == LrScheduler::cosine_with_min_lr ||
                              train.lr_scheduler_type == LrScheduler::warmup_stable_decay;
  if (train.min_lr > 0.0 && !ends_at_min_lr) {
    origin.fail("train.min_lr", "found ", train.min_lr, ", expected 0: train.lr_scheduler_type ",
                name_of(train.lr_scheduler_type), " has no minimum; cosine_with_min_lr has");
  }
  const double save_steps = config.checkpoint.save_steps;
  if (save_steps >= 1.0 && save_steps != std::floor(save_steps)) {
    origin.fail("checkpoint.save_steps", "found ", save_steps, ", expected whole steps or a fraction below 1");
  }
  if (train.eval_steps > 0 && !config.data.eval_path) {
    origin.fail("train.eval_steps", "found ", train.eval_steps, ", expected 0 without data.eval_path");
  }
}

}  // namespace

bool Config::operator==(const Config& other) const {
  return model == other.model && init_from == other.init_from && output_dir == other.output_dir &&
         attention == other.attention && data == other.data && train == other.train && checkpoint == other.checkpoint &&
         distributed == other.distributed;
}

Config parse_config(std::string_view text, const std::string& name, const std::vector<std::string>& overrides) {
  Origin origin(name);
  Json root = parse_json(text, name);
  if (!root.is_object()) origin.fail("", "found ", quoted(root), ", expected an object");

  std::vector<Override> of_model;
  for (const std::string& argument : overrides) {
    Override each = parse_override(argument);
    if (each.key->path.starts_with(kModelPrefix)) {
      of_model.push_back(std::move(each));
    } else {
      origin.add_override(each.key->path, argument);
      put(root, each.key->path, std::move(each.value), origin);
    }
  }

  Config config;
  if (const auto it = root.find("model"); it != root.end()) {
    Json& model = *it;
    if (model.is_string()) {
      config.model_source = model.get<std::string>();
      const std::string whose = (origin.overridden("model") ? "--set model" : name + ": model") + ": ";
      model = parse_json(read_text(config.model_source, whose), config.model_source);
      if (!model.is_object()) fail_usage(config.model_source, ": found ", quoted(model), ", expected an object");
      origin.set_model_file(config.model_source);
    }
    for (Override& each : of_model) {
      origin.add_override(each.key->path, each.argument);
      put(root, each.key->path, std::move(each.value), origin);
    }
    settle_model(model, origin);
  }
  settle_either_or(root, origin);
  Reader(origin).read(root, "", kAny, config);
  if (!config.train.gradient_accumulation_steps && !config.train.global_batch_size) {
    config.train.gradient_accumulation_steps = TrainConfig{}.gradient_accumulation_steps;
  }
  check_model(config.model, origin);
  check_run(config, origin);
  return config;
}

Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  return parse_config(read_text(file, ""), file.string(), overrides);
}

ModelConfig load_model_config(const std::filesystem::path& file) {
  Origin origin(file.string());
  origin.set_model_file(file.string());
  Json object = parse_json(read_text(file, ""), file.string());
  settle_model(object, origin);
  ModelConfig model;
  Reader(origin).read(object, "model", kAny, model);
  check_model(model, origin);
  return model;
}

std::int64_t accumulation_steps(const TrainConfig& train, std::int64_t ranks) {
  if (!train.global_batch_size) return train.gradient_accumulation_steps.value_or(1);
  const std::int64_t rows = train.per_device_train_batch_size * ranks;
  if (*train.global_batch_size % rows != 0) {
    fail_usage("train.global_batch_size: found ", *train.global_batch_size, ", expected a multiple of ", rows, " (",
               train.per_device_train_batch_size, " rows a micro-batch on ", ranks, " ranks)");
  }
  return *train.global_batch_size / rows;
}

}  // namespace ssa
