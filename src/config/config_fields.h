// The fields of each config struct: key, range and meaning. The default of a key is the initializer of its member.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "ssa/base/error.h"
#include "ssa/base/or_list.h"
#include "ssa/config/config.h"

namespace ssa::config_fields {

/// The allowed values of a number.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_excluded = false;
  bool high_excluded = false;

  bool holds(double value) const {  // false for NaN
    return (low_excluded ? value > low : value >= low) && (high_excluded ? value < high : value <= high);
  }
};

inline constexpr Range kAny{};
constexpr Range at_least(double low) { return {.low = low}; }
constexpr Range above(double low) { return {.low = low, .low_excluded = true}; }
constexpr Range between(double low, double high) { return {.low = low, .high = high}; }
constexpr Range above_up_to(double low, double high) { return {.low = low, .high = high, .low_excluded = true}; }
constexpr Range from_to_below(double low, double high) { return {.low = low, .high = high, .high_excluded = true}; }

/// Upper bounds of sizes: above anything a machine holds, and small enough that sums and products of a few sizes do not
/// overflow. check_model and check_run (config.cpp) bound the products of many.
inline constexpr double kMostVocabulary = 1e7, kMostWidth = 1e6, kMostLayers = 2e3, kMostHeads = 1e4, kMostTokens = 1e9,
                        kMostSeed = 1e18, kMostBlocks = 1e6, kMostRows = 1e6, kMostGlobalRows = 1e9, kMostEpochs = 1e5,
                        kMostSteps = 1e9, kMostSamples = 1e12, kMostCheckpoints = 1e6;

template <class Struct, class Value>
struct Field {
  using value_type = Value;
  std::string_view key;
  Value Struct::*member;
  Range range;
  std::string_view meaning;
  bool required = false;
  std::string_view default_text = {};  ///< shown in the table of keys instead of the initializer
};

template <class Struct, class Value>
constexpr auto field(std::string_view key, Value Struct::*member, Range range, std::string_view meaning,
                     std::string_view default_text = {}) {
  return Field<Struct, Value>{key, member, range, meaning, false, default_text};
}

template <class Struct, class Value>
constexpr auto required(std::string_view key, Value Struct::*member, Range range, std::string_view meaning) {
  return Field<Struct, Value>{key, member, range, meaning, true};
}

template <class Struct>
using Of = std::type_identity<Struct>;

template <class Visit>
void visit_fields(Of<RopeScaling>, Visit&& visit) {
  using C = RopeScaling;
  visit(required("rope_type", &C::rope_type, kAny, "kind of scaling"));
  visit(required("factor", &C::factor, above(0), "factor for wavelengths above the low-frequency bound"));
  visit(required("low_freq_factor", &C::low_freq_factor, above(0), "low-frequency bound: original positions / this"));
  visit(
      required("high_freq_factor", &C::high_freq_factor, above(0), "high-frequency bound: original positions / this"));
  visit(required("original_max_position_embeddings", &C::original_max_position_embeddings, between(1, kMostTokens),
                 "positions the unscaled model was trained for, tokens"));
}

template <class Visit>
void visit_fields(Of<ModelConfig>, Visit&& visit) {
  using C = ModelConfig;
  visit(required("vocab_size", &C::vocab_size, between(1, kMostVocabulary),
                 "number of token ids; rows of the embedding"));
  visit(required("hidden_size", &C::hidden_size, between(1, kMostWidth), "width of the residual stream"));
  visit(required("intermediate_size", &C::intermediate_size, between(1, kMostWidth), "width of the MLP (SwiGLU)"));
  visit(required("num_hidden_layers", &C::num_hidden_layers, between(1, kMostLayers), "layers"));
  visit(required("num_attention_heads", &C::num_attention_heads, between(1, kMostHeads), "query heads"));
  visit(field("num_key_value_heads", &C::num_key_value_heads, between(1, kMostHeads),
              "key/value heads, a divisor of num_attention_heads", "num_attention_heads"));
  visit(field("head_dim", &C::head_dim, between(2, kMostWidth), "width of a head, an even number",
              "hidden_size / num_attention_heads"));
  visit(field("rms_norm_eps", &C::rms_norm_eps, above(0), "added to the mean square in RMSNorm"));
  visit(field("rope_theta", &C::rope_theta, above(0), "base of the rotary frequencies"));
  visit(field("rope_scaling", &C::rope_scaling, kAny, "scaling of the rotary frequencies"));
  visit(field("initializer_range", &C::initializer_range, at_least(0), "standard deviation of the initial weights"));
  visit(field("tie_word_embeddings", &C::tie_word_embeddings, kAny, "the output head is the embedding"));
  visit(field("block_size", &C::block_size, between(1, kMostTokens),
              "tokens per block of keys that sparse attention selects"));
  visit(field("block_counts", &C::block_counts, between(1, kMostBlocks),
              "blocks that each query attends to, including its own"));
  visit(field("window_size", &C::window_size, between(0, kMostTokens),
              "tokens in nsa's sliding window; 0 = no window branch; the other methods have none"));
  visit(field("max_position_embeddings", &C::max_position_embeddings, between(1, kMostTokens),
              "longest sequence the model is made for, tokens"));
  visit(
      field("bos_token_id", &C::bos_token_id, between(0, kMostVocabulary), "token id that begins a text; null = none"));
  visit(field("eos_token_id", &C::eos_token_id, between(0, kMostVocabulary), "token id that ends a text"));
}

template <class Visit>
void visit_fields(Of<AttentionConfig>, Visit&& visit) {
  using C = AttentionConfig;
  visit(field("method", &C::method, kAny, "attention method"));
  visit(field("alignment_weight", &C::alignment_weight, at_least(0), "weight of ssa's alignment loss"));
  visit(field("aligned_outputs", &C::aligned_outputs, kAny,
              "which outputs of attention the gradient of ssa's alignment loss reaches: both, only the output of full "
              "attention, or only the output of sparse attention"));
  visit(field(
      "full_stream_probability", &C::full_stream_probability, between(0, 1),
      "probability that the layers of ssa continue with the output of full attention instead of sparse attention"));
  visit(field(
      "dense_warmup_steps", &C::dense_warmup_steps, between(0, kMostSteps),
      "first steps, in which ssa always continues with the output of full attention, for a start from a dense model"));
  visit(field("stream_granularity", &C::stream_granularity, kAny,
              "whether ssa draws the output to continue with once per step or per row"));
  visit(field("selection", &C::selection, kAny,
              "how blocks are selected; `reference` reproduces the kernel of the published checkpoints, whose top-k is "
              "not exact"));
}

template <class Visit>
void visit_fields(Of<SourceConfig>, Visit&& visit) {
  using C = SourceConfig;
  visit(required("path", &C::path, kAny, "directory of the tokenized dataset, or a Megatron prefix"));
  visit(required("weight", &C::weight, above_up_to(0, 1e6), "share of the rows, relative to the other weights"));
  visit(field("name", &C::name, kAny, "name in the log, metrics and checkpoints", "the last part of the path"));
  visit(field("min_document_tokens", &C::min_document_tokens, between(0, kMostTokens),
              "shorter documents are left out, instead of data.min_document_tokens"));
}

template <class Visit>
void visit_fields(Of<DataConfig>, Visit&& visit) {
  using C = DataConfig;
  visit(field("path", &C::path, kAny, "directory of the tokenized dataset, or a Megatron prefix",
              "required, or sources"));
  visit(
      field("sources", &C::sources, kAny,
            "several datasets instead of `path`, mixed row by row in proportion to their weights; name: the last part "
            "of the path if not given; a source may have its own min_document_tokens"));
  visit(field(
      "packing", &C::packing, kAny,
      "`greedy`: a piece that does not fit starts a new row; `concat`: documents end to end; `best_fit`: each piece "
      "into the row with the least room in which it fits"));
  visit(field(
      "document_mask", &C::document_mask, kAny,
      "no token attends to another document of its row; pieces begin at multiples of model.block_size, with padding "
      "between them"));
  visit(field("min_document_tokens", &C::min_document_tokens, between(0, kMostTokens),
              "shorter documents are left out, the end-of-text token counted; 0 = none; a source may have its own"));
  visit(field("shuffle", &C::shuffle, kAny, "rows come in an order drawn from seed and epoch"));
  visit(field("skip_train_samples", &C::skip_train_samples, between(-1, kMostSamples),
              "rows skipped at the start of the dataset; -1 or 0 = none"));
  visit(field("max_train_samples", &C::max_train_samples, between(0, kMostSamples),
              "rows used after the skipped ones; 0 = all"));
  visit(field("eval_path", &C::eval_path, kAny,
              "tokenized dataset to evaluate on, as for path; an object names several"));
  visit(
      field("skip_ranges", &C::skip_ranges, kAny,
            "rows that are not trained on, counted from 0 over the whole run; the log and metrics.jsonl state the rows "
            "of a step"));
}

template <class Visit>
void visit_fields(Of<TrainConfig>, Visit&& visit) {
  using C = TrainConfig;
  visit(required("max_length", &C::max_length, between(2, kMostTokens), "tokens per row"));
  visit(required("per_device_train_batch_size", &C::per_device_train_batch_size, between(1, kMostRows),
                 "rows per micro-batch on one rank"));
  visit(field("gradient_accumulation_steps", &C::gradient_accumulation_steps, between(1, kMostRows),
              "micro-batches per rank and optimizer step", "1, or from global_batch_size"));
  visit(field("global_batch_size", &C::global_batch_size, between(1, kMostGlobalRows),
              "rows per optimizer step over all ranks, instead of gradient_accumulation_steps"));
  visit(field("global_batch_size_schedule", &C::global_batch_size_schedule, between(1, kMostGlobalRows),
              "global_batch_size from each of several steps on, as in `[[0, 256], [2000, 512]]`; steps count from 0; "
              "instead of global_batch_size and gradient_accumulation_steps"));
  visit(field("num_train_epochs", &C::num_train_epochs, above_up_to(0, kMostEpochs),
              "passes over the data, when max_steps is -1"));
  visit(field("max_steps", &C::max_steps, between(-1, kMostSteps),
              "optimizer steps of the run; -1 = from num_train_epochs"));
  visit(required("learning_rate", &C::learning_rate, above(0), "peak learning rate, at the end of the warmup"));
  visit(field("min_lr", &C::min_lr, at_least(0), "final learning rate of cosine_with_min_lr and warmup_stable_decay"));
  visit(field("lr_scheduler_type", &C::lr_scheduler_type, kAny, "learning-rate schedule after the warmup"));
  visit(field("warmup_ratio", &C::warmup_ratio, between(0, 1),
              "fraction of all steps in which the learning rate rises from 0", "0.01, or null with warmup_steps"));
  visit(field("warmup_steps", &C::warmup_steps, between(0, kMostSteps),
              "steps in which the learning rate rises from 0, instead of warmup_ratio"));
  visit(field("decay_ratio", &C::decay_ratio, between(0, 1),
              "fraction of all steps, at the end, in which warmup_stable_decay falls to min_lr; 0 = it stays stable",
              "0.1, or null with decay_steps"));
  visit(field("decay_steps", &C::decay_steps, between(0, kMostSteps),
              "steps at the end in which warmup_stable_decay falls to min_lr, instead of decay_ratio"));
  visit(field("decay_type", &C::decay_type, kAny, "shape of warmup_stable_decay's decay"));
  visit(field("weight_decay", &C::weight_decay, at_least(0), "AdamW's decoupled decay; RMSNorm weights have none"));
  visit(field("adam_beta1", &C::adam_beta1, from_to_below(0, 1), "decay of the first moment"));
  visit(field("adam_beta2", &C::adam_beta2, from_to_below(0, 1), "decay of the second moment"));
  visit(field("adam_epsilon", &C::adam_epsilon, above(0), "added to the square root of the second moment"));
  visit(field("moments_dtype", &C::moments_dtype, kAny,
              "type of AdamW's moments in memory; bf16 values are rounded up or down at random, so that small changes "
              "are not lost"));
  visit(field("offload_moments", &C::offload_moments, kAny,
              "AdamW's moments are in pinned host memory and pass through the GPU while it updates the weights"));
  visit(field("max_grad_norm", &C::max_grad_norm, at_least(0),
              "gradients are scaled down to at most this norm; 0 = never"));
  visit(field("seed", &C::seed, between(0, kMostSeed), "seed of the initial weights, the row order and ssa's draws"));
  visit(field("gradient_checkpointing", &C::gradient_checkpointing, kAny,
              "activations recomputed in the backward pass to save memory; `selective`: norms, SwiGLU and gated "
              "attention; `full`: all but each layer's input"));
  visit(field(
      "fp8", &C::fp8, kAny,
      "matrix products in FP8: `linear`: of the linear layers; `all`: of the LM head too; evaluation is not in FP8"));
  visit(field("fp8_exclude", &C::fp8_exclude, kAny,
              "what fp8 leaves out: `lm_head`; `qkvg_proj`, `o_proj`, `gate_up_proj` or `down_proj` of every layer; "
              "`layers.0`; `layers.0.o_proj`"));
  visit(field("logging_steps", &C::logging_steps, between(1, kMostSteps), "steps between two logged steps"));
  visit(field("eval_steps", &C::eval_steps, between(0, kMostSteps),
              "steps between two evaluations; 0 = only at the end"));
  visit(field("eval_tasks", &C::eval_tasks, kAny,
              "tasks of lm-evaluation-harness to run during training, as in `{\"piqa\": \"tasks\"}`: a file, or the "
              "directory that has it"));
  visit(field("eval_tasks_steps", &C::eval_tasks_steps, between(0, kMostSteps),
              "steps between two runs of eval_tasks, which also run at the end; 0 = eval_steps"));
  visit(field("eval_tasks_limit", &C::eval_tasks_limit, between(0, kMostSamples),
              "documents per task, the first ones of its file; 0 = all"));
  visit(field("eval_tasks_num_fewshot", &C::eval_tasks_num_fewshot, between(0, 1000),
              "examples before each question of eval_tasks"));
  visit(field(
      "eval_tokenizer", &C::eval_tokenizer, kAny,
      "tokenizer for eval_tasks, as for ssa_tokenize --tokenizer; null = bytes, only if the data was made with it"));
  visit(field("attention_stats_steps", &C::attention_stats_steps, between(0, kMostSteps),
              "steps between two measurements of ssa's selected mass and entropy; 0 = never"));
  visit(field("on_spike", &C::on_spike, kAny,
              "at a spike of the loss or the gradient norm: `log` prints a warning; `skip` leaves out the update; "
              "`stop` ends the run before the update"));
  visit(field("spike_z_score", &C::spike_z_score, Range{.low = 0, .high = 1e6, .low_excluded = true},
              "a step is a spike if its loss or gradient norm exceeds the mean of the last spike_window steps by more "
              "than this many standard deviations"));
  visit(field("spike_window", &C::spike_window, between(10, 100000),
              "steps whose mean and standard deviation a spike is compared with"));
  visit(field("max_skipped_updates", &C::max_skipped_updates, between(1, 1e9),
              "updates that on_spike `skip` may skip; one more stops the run"));
}

template <class Visit>
void visit_fields(Of<CheckpointConfig>, Visit&& visit) {
  using C = CheckpointConfig;
  visit(field("save_steps", &C::save_steps, between(0, kMostSteps),
              "steps between two checkpoints, or a fraction of the run if below 1; 0 = only at the end"));
  visit(field("save_total_limit", &C::save_total_limit, between(0, kMostCheckpoints),
              "number of newest checkpoints to keep; 0 = all"));
  visit(field("keep_every", &C::keep_every, between(0, 1e9),
              "every n-th of the checkpoints made every save_steps is kept for good, in addition to the newest "
              "save_total_limit; 0 = none"));
  visit(field("export_every", &C::export_every, between(0, 1e9),
              "every n-th of the checkpoints made every save_steps is also written as a Hugging Face directory, "
              "output_dir/exports/step-*; 0 = none"));
  visit(field("async", &C::async, kAny,
              "write checkpoints while training continues; null = on a GPU, if their copy takes at most half of the "
              "free host memory"));
}

template <class Visit>
void visit_fields(Of<DistributedConfig>, Visit&& visit) {
  using C = DistributedConfig;
  visit(field(
      "zero_stage", &C::zero_stage, between(0, 3),
      "what is sharded over the ranks: 0 nothing, 1 the optimizer state, 2 the gradients too, 3 the weights too"));
  visit(
      field("shard_size", &C::shard_size, between(0, 1e6),
            "size of the groups of consecutive ranks that zero_stage shards over, such as the ranks of a machine; must "
            "divide the number of ranks; 0 = one group of all ranks"));
  visit(field("overlap", &C::overlap, kAny,
              "send gradients during the backward pass, and updated weights while the next step begins"));
  visit(field("reduce_dtype", &C::reduce_dtype, kAny, "type in which gradients are sent and summed over the ranks"));
  // ssa/comm/watchdog.h
  constexpr Range kSeconds = between(1, 1e6);
  visit(field("timeout_seconds", &C::timeout_seconds, kSeconds,
              "seconds without an answer from a rank, or without progress in a step, after which the job ends"));
  visit(field("start_timeout_seconds", &C::start_timeout_seconds, kSeconds,
              "seconds without progress before the end of the first step, after which the job ends"));
  visit(field("save_timeout_seconds", &C::save_timeout_seconds, kSeconds,
              "seconds without progress in a save, after which the job ends"));
  visit(field("eval_timeout_seconds", &C::eval_timeout_seconds, kSeconds,
              "seconds without progress in an evaluation, after which the job ends"));
}

template <class Visit>
void visit_fields(Of<Config>, Visit&& visit) {
  using C = Config;
  visit(required("model", &C::model, kAny,
                 "path of a Hugging Face config.json of LLaMA, or the object itself; other keys in it are ignored "
                 "unless they mean "
                 "another architecture"));
  visit(
      field("init_from", &C::init_from, kAny,
            "Hugging Face directory, checkpoint or run (its newest checkpoint) to start from; null = random weights"));
  visit(
      field("init_state", &C::init_state, kAny,
            "what is taken from init_from: `weights`; `optimizer`: of a checkpoint, also the moments; `run`: also the "
            "step and the position in the data"));
  visit(required("output_dir", &C::output_dir, kAny, "directory of the run: config, log, metrics, checkpoints"));
  visit(field("attention", &C::attention, kAny, "the attention method"));
  visit(field("data", &C::data, kAny, "the tokenized text"));
  visit(field("train", &C::train, kAny, "the optimization"));
  visit(field("checkpoint", &C::checkpoint, kAny, "what is saved when"));
  visit(field("distributed", &C::distributed, kAny, "how the ranks share the work"));
}

// Kinds of fields.

template <class T>
struct OptionalOf : std::false_type {
  using type = T;
};
template <class T>
struct OptionalOf<std::optional<T>> : std::true_type {
  using type = T;
};

using RowRanges = std::vector<RowRange>;
using BatchSchedule = std::vector<BatchSize>;
using Names = std::vector<std::string>;
using Sources = std::vector<SourceConfig>;
using EvalPaths = std::vector<EvalConfig>;
using TaskPaths = std::vector<TaskConfig>;

template <class T>
concept List = std::is_same_v<T, RowRanges> || std::is_same_v<T, Names> || std::is_same_v<T, Sources> ||
    std::is_same_v<T, EvalPaths> || std::is_same_v<T, BatchSchedule> || std::is_same_v<T, TaskPaths>;

/// A struct with a list of fields. Other types of fields are a string, an optional, a list, or not a class.
template <class T>
concept Section = std::is_class_v<T> && !std::is_same_v<T, std::string> && !List<T> && !OptionalOf<T>::value;

/// The values of an enum, in the order of the documentation.
template <class E>
inline constexpr std::initializer_list<E> kValues = {};
template <>
inline constexpr auto kValues<Method> = kMethods;
template <>
inline constexpr auto kValues<AlignedOutputs> = {AlignedOutputs::both, AlignedOutputs::full, AlignedOutputs::sparse};
template <>
inline constexpr auto kValues<StreamGranularity> = {StreamGranularity::step, StreamGranularity::row};
template <>
inline constexpr auto kValues<OnSpike> = {OnSpike::log, OnSpike::skip, OnSpike::stop};
template <>
inline constexpr auto kValues<FloatType> = {FloatType::f32, FloatType::bf16};
template <>
inline constexpr auto kValues<BlockSelection> = kBlockSelections;
template <>
inline constexpr auto kValues<Packing> = kPackings;
template <>
inline constexpr auto kValues<GradientCheckpointing> = {GradientCheckpointing::none, GradientCheckpointing::selective,
                                                        GradientCheckpointing::full};
template <>
inline constexpr auto kValues<DecayType> = {DecayType::linear, DecayType::cosine, DecayType::one_minus_sqrt};
template <>
inline constexpr auto kValues<InitState> = {InitState::weights, InitState::optimizer, InitState::run};
template <>
inline constexpr auto kValues<Fp8Mode> = {Fp8Mode::none, Fp8Mode::linear, Fp8Mode::all};
template <>
inline constexpr auto kValues<RopeType> = {RopeType::llama3};
template <>
inline constexpr auto kValues<LrScheduler> = {LrScheduler::cosine_with_min_lr, LrScheduler::cosine, LrScheduler::linear,
                                              LrScheduler::constant_with_warmup, LrScheduler::warmup_stable_decay};

/// The values a field accepts, in words: "an integer of at least 1", "ssa, full, moba or nsa", "a path or null".
template <class T>
std::string expectation(const Range& range) {
  if constexpr (OptionalOf<T>::value) {
    return expectation<typename OptionalOf<T>::type>(range) + " or null";
  } else if constexpr (std::is_same_v<T, bool>) {
    return "true or false";
  } else if constexpr (std::is_same_v<T, std::string>) {
    return "a path";
  } else if constexpr (std::is_same_v<T, RowRanges>) {
    return "a list of [first_row, last_row]";
  } else if constexpr (std::is_same_v<T, BatchSchedule>) {
    return "a list of [first_step, rows] with steps that rise from 0";
  } else if constexpr (std::is_same_v<T, Sources>) {
    return "a list of {path, weight, name, min_document_tokens}";
  } else if constexpr (std::is_same_v<T, EvalPaths>) {
    return "a path, an object {name: path, ...} or null";
  } else if constexpr (std::is_same_v<T, TaskPaths>) {
    return "an object {task: path, ...}";
  } else if constexpr (std::is_same_v<T, Names>) {
    return "a list of names";
  } else if constexpr (std::is_same_v<T, ModelConfig>) {
    return "a path or an object";
  } else if constexpr (Section<T>) {
    return "an object";
  } else if constexpr (std::is_enum_v<T>) {
    std::vector<std::string_view> names;
    for (const T& value : kValues<T>) names.push_back(name_of(value));
    return or_list(names);
  } else {
    const std::string kind = std::is_integral_v<T> ? "an integer" : "a number";
    if (std::isfinite(range.high) && range.low_excluded)
      return fmt::format("{} above {}, up to {}", kind, range.low, range.high);
    if (std::isfinite(range.high))
      return fmt::format("{} from {} to {}{}", kind, range.low, range.high_excluded ? "below " : "", range.high);
    return fmt::format("{} {} {}", kind, range.low_excluded ? "above" : "of at least", range.low);
  }
}

}  // namespace ssa::config_fields
