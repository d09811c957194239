// The config of a run: strict JSON, in the names of train_pt.sh / the HF trainer and of HF's config.json.
//
// One list of fields a struct (src/train/config_fields.h) drives parsing, defaults, range checks, --set, the log, the
// saved resolved config and docs/config.md's table of keys; what a key means and which values it takes stands there.
// Every error is a UsageError of one line: where the value came from (config file, model file or --set), the key, what
// was found, what was expected. Paths are relative to the current directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/attention/select_blocks/select_blocks.h"
#include "ssa/data/packing.h"
#include "ssa/model/model_config.h"

namespace ssa {

/// How often the attention stream passed to the next layer (full or sparse) is drawn: per step or per sequence.
enum class StreamGranularity { step, row };

constexpr std::string_view name_of(StreamGranularity granularity) {
  return granularity == StreamGranularity::step ? "step" : "row";
}

constexpr std::string_view name_of(BlockSelection selection) {
  return selection == BlockSelection::exact ? "exact" : "reference";
}

/// Formulas: ssa/train/schedule.h.
enum class LrScheduler { cosine_with_min_lr, cosine, linear, constant_with_warmup, warmup_stable_decay };

constexpr std::string_view name_of(LrScheduler scheduler) {
  switch (scheduler) {
    case LrScheduler::cosine_with_min_lr: return "cosine_with_min_lr";
    case LrScheduler::cosine: return "cosine";
    case LrScheduler::linear: return "linear";
    case LrScheduler::constant_with_warmup: return "constant_with_warmup";
    case LrScheduler::warmup_stable_decay: return "warmup_stable_decay";
  }
  return "?";
}

struct AttentionConfig {
  Method method = Method::ssa;
  double alignment_weight = 10.0;
  double full_stream_probability = 0.5;
  StreamGranularity stream_granularity = StreamGranularity::step;
  BlockSelection selection = BlockSelection::exact;
  bool operator==(const AttentionConfig&) const = default;
};

struct DataConfig {
  std::string path;
  Packing packing = Packing::greedy;
  bool shuffle = true;
  std::int64_t skip_train_samples = -1;
  std::int64_t max_train_samples = 0;
  std::optional<std::string> eval_path;
  bool operator==(const DataConfig&) const = default;
};

struct TrainConfig {
  std::int64_t max_length = 0;
  std::int64_t per_device_train_batch_size = 0;
  /// Just one of these two holds a value in a loaded config; see accumulation_steps().
  std::optional<std::int64_t> gradient_accumulation_steps = 1;
  std::optional<std::int64_t> global_batch_size;
  double num_train_epochs = 1.0;
  std::int64_t max_steps = -1;
  double learning_rate = 0.0;
  double min_lr = 0.0;
  LrScheduler lr_scheduler_type = LrScheduler::cosine_with_min_lr;
  /// At most one of these two holds a value in a loaded config; see warmup_steps() of schedule.h.
  std::optional<double> warmup_ratio = 0.01;
  std::optional<std::int64_t> warmup_steps;
  double weight_decay = 0.1;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.95;
  double adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;
  std::int64_t seed = 42;
  GradientCheckpointing gradient_checkpointing = GradientCheckpointing::none;
  std::int64_t logging_steps = 1;
  std::int64_t eval_steps = 0;
  std::int64_t attention_stats_steps = 0;
  bool operator==(const TrainConfig&) const = default;
};

struct CheckpointConfig {
  double save_steps = 0.1;
  std::int64_t save_total_limit = 0;
  bool async = false;
  bool operator==(const CheckpointConfig&) const = default;
};

struct DistributedConfig {
  std::int64_t zero_stage = 0;
  double timeout_seconds = 60;
  double start_timeout_seconds = 600;
  double save_timeout_seconds = 600;
  double eval_timeout_seconds = 600;
  bool operator==(const DistributedConfig&) const = default;
};

struct Config {
  ModelConfig model;
  std::string model_source;  ///< the path `model` was read from; empty if the config holds the object itself
  std::optional<std::string> init_from;
  std::string output_dir;
  AttentionConfig attention;
  DataConfig data;
  TrainConfig train;
  CheckpointConfig checkpoint;
  DistributedConfig distributed;

  /// The same run; where the model's values were read from is no part of it.
  bool operator==(const Config& other) const;
};

/// Reads a config file. `overrides` are the arguments of --set, "section.key=value" in order: the value is JSON, or a
/// bare string where the key takes text or JSON does not parse. Of a pair that excludes each other
/// (gradient_accumulation_steps | global_batch_size, warmup_ratio | warmup_steps) the one set replaces the file's
/// other.
Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides = {});

/// Where the config that a command line calls `file` is: at that path, else among the installed ones, which lie in
/// share/ssa-train next to the directory of the running program ("ssa-1b.json" or "configs/ssa-1b.json"). `file` itself
/// when it is in neither.
std::filesystem::path find_config(const std::filesystem::path& file);

/// The same from text; `name` stands for the file in errors.
Config parse_config(std::string_view text, const std::string& name, const std::vector<std::string>& overrides = {});

/// Reads a HF config.json alone, as the `model` key does.
ModelConfig load_model_config(const std::filesystem::path& file);

/// Every key with its value, as JSON text; parse_config gives the same Config back.
std::string config_json(const Config& config);

/// The config.json of a HF directory: the model's keys, model_type llama-nsa, the classes of the Python files next to it,
/// the method, the attention it is to run with (full for method full, else sparse) and what the architecture fixes.
/// `torch_dtype` names the dtype of the weights next to it: "float32" or "bfloat16".
std::string hugging_face_config_json(const ModelConfig& model, Method method, BlockSelection selection,
                                     std::string_view torch_dtype);

/// The generation_config.json of a HF directory: its token ids, and greedy decoding; padding is done with end of text.
std::string hugging_face_generation_json(const ModelConfig& model);

/// "section.key = value", a line a key, for the log.
std::vector<std::string> config_lines(const Config& config);

/// docs/config.md's table of keys: key | type | default | meaning.
std::string config_keys_table();

/// Micro-batches each of `ranks` ranks adds up before an update. UsageError if global_batch_size rows do not cut into
/// whole micro-batches on every rank.
std::int64_t accumulation_steps(const TrainConfig& train, std::int64_t ranks);

}  // namespace ssa
