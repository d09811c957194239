// The config of a run: strict JSON, with the key names of train_pt.sh, the Hugging Face trainer and config.json.
//
// src/config/config_fields.h has one list of fields per struct: keys, defaults, ranges and meanings. Parsing, --set,
// the log, the saved config and docs/config.md's table of keys all use it. Every error is a UsageError of one line: the
// origin of the value (config file, model file or --set), the key, what was found and what was expected. Paths are
// relative to the current directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/attention/select_blocks/select_blocks.h"
#include "ssa/data/batch_size.h"
#include "ssa/data/packing.h"
#include "ssa/data/row_range.h"
#include "ssa/model/fp8_layers.h"
#include "ssa/model/model_config.h"

namespace ssa {

/// What happens at a step whose loss or gradient norm is far above those of the steps before it (spike_detector.h).
enum class OnSpike { log, skip, stop };

constexpr std::string_view name_of(OnSpike action) {
  switch (action) {
    case OnSpike::log: return "log";
    case OnSpike::skip: return "skip";
    case OnSpike::stop: return "stop";
  }
  return "?";
}

/// How often ssa draws which attention output, full or sparse, is passed on: per optimizer step, or per row (sequence).
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

enum class FloatType { f32, bf16 };

constexpr std::string_view name_of(FloatType type) { return type == FloatType::f32 ? "f32" : "bf16"; }

/// How the learning rate falls in the last phase of warmup_stable_decay. Formulas: ssa/train/schedule.h.
enum class DecayType { linear, cosine, one_minus_sqrt };

constexpr std::string_view name_of(DecayType type) {
  switch (type) {
    case DecayType::linear: return "linear";
    case DecayType::cosine: return "cosine";
    case DecayType::one_minus_sqrt: return "1-sqrt";
  }
  return "?";
}

/// What a run takes from init_from, besides the weights.
enum class InitState {
  weights,    ///< nothing
  optimizer,  ///< the moments and the number of updates in them
  run,        ///< these, the step, and the position in the data: the run continues the other one
};

constexpr std::string_view name_of(InitState state) {
  switch (state) {
    case InitState::weights: return "weights";
    case InitState::optimizer: return "optimizer";
    case InitState::run: return "run";
  }
  return "?";
}

struct AttentionConfig {
  Method method = Method::ssa;
  double alignment_weight = 10.0;
  AlignedOutputs aligned_outputs = AlignedOutputs::both;
  double full_stream_probability = 0.5;
  std::int64_t dense_warmup_steps = 0;
  StreamGranularity stream_granularity = StreamGranularity::step;
  BlockSelection selection = BlockSelection::exact;
  bool operator==(const AttentionConfig&) const = default;
};

/// A dataset of a mix.
struct SourceConfig {
  std::string path;
  double weight = 0;  ///< its share of the rows is this over the sum of all weights
  std::string name;
  std::optional<std::int64_t> min_document_tokens{};  ///< instead of data.min_document_tokens
  bool operator==(const SourceConfig&) const = default;
};

/// A dataset to evaluate on. The name is empty if data.eval_path is one path.
struct EvalConfig {
  std::string name, path;
  bool operator==(const EvalConfig&) const = default;
};

/// A task of lm-evaluation-harness, and its file or the directory that has it.
struct TaskConfig {
  std::string name, path;
  bool operator==(const TaskConfig&) const = default;
};

struct DataConfig {
  /// In a loaded config exactly one of these two is given.
  std::optional<std::string> path;
  std::vector<SourceConfig> sources;  ///< in the order of their names
  Packing packing = Packing::greedy;
  bool document_mask = false;
  std::int64_t min_document_tokens = 0;
  bool shuffle = true;
  std::int64_t skip_train_samples = -1;
  std::int64_t max_train_samples = 0;
  std::vector<EvalConfig> eval_path;  ///< in the order of their names
  std::vector<RowRange> skip_ranges;
  bool operator==(const DataConfig&) const = default;
};

struct TrainConfig {
  std::int64_t max_length = 0;
  std::int64_t per_device_train_batch_size = 0;
  /// In a loaded config exactly one of these three has a value; see batch_sizes().
  std::optional<std::int64_t> gradient_accumulation_steps = 1;
  std::optional<std::int64_t> global_batch_size;
  std::vector<BatchSize> global_batch_size_schedule;
  double num_train_epochs = 1.0;
  std::int64_t max_steps = -1;
  double learning_rate = 0.0;
  double min_lr = 0.0;
  LrScheduler lr_scheduler_type = LrScheduler::cosine_with_min_lr;
  /// In a loaded config at most one of these two has a value; see warmup_steps() in schedule.h.
  std::optional<double> warmup_ratio = 0.01;
  std::optional<std::int64_t> warmup_steps;
  /// In a loaded config at most one of these two has a value; see decay_steps() in schedule.h.
  std::optional<double> decay_ratio = 0.1;
  std::optional<std::int64_t> decay_steps;
  DecayType decay_type = DecayType::linear;
  double weight_decay = 0.1;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.95;
  double adam_epsilon = 1e-8;
  FloatType moments_dtype = FloatType::f32;
  bool offload_moments = false;
  double max_grad_norm = 1.0;
  std::int64_t seed = 42;
  GradientCheckpointing gradient_checkpointing = GradientCheckpointing::none;
  Fp8Mode fp8 = Fp8Mode::none;
  std::vector<std::string> fp8_exclude;
  std::int64_t logging_steps = 1;
  std::int64_t eval_steps = 0;
  std::vector<TaskConfig> eval_tasks;  ///< in the order of their names
  std::int64_t eval_tasks_steps = 0;
  std::int64_t eval_tasks_limit = 0;
  std::int64_t eval_tasks_num_fewshot = 0;
  std::optional<std::string> eval_tokenizer;
  std::int64_t attention_stats_steps = 0;
  OnSpike on_spike = OnSpike::log;
  double spike_z_score = 6.0;
  std::int64_t spike_window = 128;
  std::int64_t max_skipped_updates = 10;
  bool operator==(const TrainConfig&) const = default;
};

struct CheckpointConfig {
  double save_steps = 0.1;
  std::int64_t save_total_limit = 0;
  std::int64_t keep_every = 0;
  std::int64_t export_every = 0;
  std::optional<bool> async{};  ///< empty: on a GPU, unless why_not_async() has a reason
  bool operator==(const CheckpointConfig&) const = default;
};

struct DistributedConfig {
  std::int64_t zero_stage = 0;
  std::int64_t shard_size = 0;
  bool overlap = false;
  FloatType reduce_dtype = FloatType::f32;
  double timeout_seconds = 60;
  double start_timeout_seconds = 600;
  double save_timeout_seconds = 600;
  double eval_timeout_seconds = 600;
  bool operator==(const DistributedConfig&) const = default;
};

struct Config {
  ModelConfig model;
  std::string model_source;              ///< the file `model` was read from; empty if the config contains the object
  std::vector<std::string> model_notes;  ///< for the log: what that file leaves out, or says and has no effect
  /// Whether the config has attention.method and attention.selection: init_from may need them.
  bool method_given = false, selection_given = false;
  std::optional<std::string> init_from;
  InitState init_state = InitState::weights;
  std::string output_dir;
  AttentionConfig attention;
  DataConfig data;
  TrainConfig train;
  CheckpointConfig checkpoint;
  DistributedConfig distributed;

  /// Compares the values of the keys.
  bool operator==(const Config& other) const;
};

/// Reads a config file. `overrides` are the arguments of --set, "section.key=value", applied in order. The value is
/// JSON, or plain text where the key takes text or the value is not JSON. For mutually exclusive keys
/// (gradient_accumulation_steps, global_batch_size and global_batch_size_schedule; warmup_ratio and warmup_steps;
/// decay_ratio and decay_steps; path and sources) the override replaces the file's.
Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides = {});

/// The config file that a command line means by `file`: that path if it exists, else a config of that name in
/// share/ssa-train of the installation ("ssa-1b.json" or "configs/ssa-1b.json"). Returns `file` if there is neither.
std::filesystem::path find_config(const std::filesystem::path& file);

/// The same from text; `name` is what errors call it.
Config parse_config(std::string_view text, const std::string& name, const std::vector<std::string>& overrides = {});

/// Reads a Hugging Face config.json, as the key `model` does; hugging_face_config.h has what else it says.
ModelConfig load_model_config(const std::filesystem::path& file);

/// All keys and values as JSON text, from which parse_config makes an equal Config.
std::string config_json(const Config& config);

/// One line "section.key = value" per key, for the log.
std::vector<std::string> config_lines(const Config& config);

/// What a run may do with a key when it resumes from a checkpoint that had another value.
enum class AtResume {
  free,      ///< no effect on the weights
  recorded,  ///< the run continues with the new value
  refused,   ///< the value decides what the weights or the data mean; only with --allow-change
};

/// A key whose values differ, as text for the log.
struct ConfigChange {
  std::string key, before, after;
  AtResume at_resume;
};

/// The keys in which two configs differ, in the order of docs/config.md.
std::vector<ConfigChange> config_changes(const Config& before, const Config& after);

/// Whether `key` is a config key that has a value ("train.seed") or a section ("model").
bool is_config_key(std::string_view key);

/// docs/config.md's table of keys: key | type | default | at a resume | meaning.
std::string config_keys_table();

/// The shortest documents that a source keeps, tokens.
std::int64_t min_document_tokens(const SourceConfig& source, const DataConfig& data);

/// The datasets that a run reads: data.path, or the paths of data.sources.
std::vector<std::string> training_paths(const DataConfig& data);

/// Rows per optimizer step over all ranks. Throws UsageError unless global_batch_size, or each of
/// global_batch_size_schedule, is a multiple of the rows of one micro-batch on all ranks.
BatchSizes batch_sizes(const TrainConfig& train, std::int64_t ranks);

}  // namespace ssa
