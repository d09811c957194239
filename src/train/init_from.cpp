#include "ssa/train/init_from.h"

#include <spdlog/spdlog.h>

#include "ssa/io/checkpoint.h"
#include "ssa/model/attention_path.h"
#include "ssa/train/model_tokenizer.h"
#include "ssa/train/resume_check.h"

namespace ssa {
namespace fs = std::filesystem;
namespace {

/// Compares a value of the run with what the files of init_from say. `given`: the run's config names it.
template <class Value>
void compare(const fs::path& file, const char* what, const char* key, const std::optional<Known<Value>>& known,
             Value run, bool given, std::vector<std::string>& notes) {
  const std::string source = concat("init_from ", file.string(), ": ");
  if (!known) {
    if (!given)
      fail_usage(source, "names no ", what, ", as in the published checkpoints, and the config has no ", key,
                 "; expected ", key);
    notes.push_back(concat(source, "names no ", what, "; this run has ", key, " ", name_of(run)));
  } else if (known->value != run) {
    if (!given)
      fail_usage(source, what, " ", name_of(known->value), " (", known->reason, "), and the config has no ", key,
                 ", whose default is ", name_of(run), "; expected ", key);
    notes.push_back(concat(source, what, " ", name_of(known->value), " (", known->reason, "); this run has ", key, " ",
                           name_of(run)));
  } else if (!known->stated) {
    notes.push_back(concat(source, what, " ", name_of(known->value), " (", known->reason, ")"));
  }
}

/// Heads decide what the rows of a projection mean: refused. Other keys may be changed on purpose: noted.
void compare_models(const fs::path& file, const HuggingFaceConfig& from, const ModelConfig& run,
                    std::vector<std::string>& notes) {
  const ModelConfig& model = from.model;
  const auto refuse = [&](const char* key, std::int64_t found, std::int64_t expected) {
    if (found != expected)
      fail_usage("init_from ", file.string(), ": ", key, " is ", found, ", expected model.", key, " ", expected);
  };
  refuse("num_attention_heads", model.num_attention_heads, run.num_attention_heads);
  refuse("num_key_value_heads", model.num_key_value_heads, run.num_key_value_heads);
  refuse("head_dim", model.head_dim, run.head_dim);
  const auto note = [&](const char* key, const auto& found, const auto& now) {
    if (found != now)
      notes.push_back(
          concat("init_from ", file.string(), ": ", key, " is ", found, "; this run has model.", key, " ", now));
  };
  note("rope_theta", model.rope_theta, run.rope_theta);
  note("rms_norm_eps", model.rms_norm_eps, run.rms_norm_eps);
  const auto truth = [](bool value) { return std::string(value ? "true" : "false"); };
  note("tie_word_embeddings", truth(model.tie_word_embeddings), truth(run.tie_word_embeddings));
  const auto token = [](const std::optional<std::int64_t>& id) { return id ? concat(*id) : std::string("null"); };
  note("bos_token_id", token(model.bos_token_id), token(run.bos_token_id));
  note("eos_token_id", token(model.eos_token_id), token(run.eos_token_id));
  note("max_position_embeddings", model.max_position_embeddings, run.max_position_embeddings);
  const auto scaling = [](const ModelConfig& m) {
    const auto& r = m.rope_scaling;
    return r ? concat(name_of(r->rope_type), " ", r->factor, ", ", r->low_freq_factor, ", ", r->high_freq_factor, ", ",
                      r->original_max_position_embeddings)
             : std::string("none");
  };
  note("rope_scaling", scaling(model), scaling(run));
  if (from.dense) return;
  note("block_size", model.block_size, run.block_size);
  note("block_counts", model.block_counts, run.block_counts);
  note("window_size", model.window_size, run.window_size);
}

void compare_attention(const fs::path& file, const HuggingFaceConfig& from, const Config& config,
                       std::vector<std::string>& notes) {
  const AttentionConfig& attention = config.attention;
  compare(file, "attention method", "attention.method", from.method, attention.method, config.method_given, notes);
  if (attention.method != Method::full)
    compare(file, "selection", "attention.selection", from.selection, attention.selection, config.selection_given,
            notes);
}

}  // namespace

HuggingFaceConfig model_of(const CheckpointReader& checkpoint) {
  const std::string file = (checkpoint.path() / "config.json").string();
  const Config config = parse_config(checkpoint.config(), file);
  HuggingFaceConfig known;
  known.model = config.model;
  known.method = {config.attention.method, concat("attention.method in ", file), true};
  known.selection = {config.attention.selection, concat("attention.selection in ", file), true};
  return known;
}

std::optional<fs::path> init_checkpoint(const Config& config) {
  if (!config.init_from) return std::nullopt;
  const fs::path path = *config.init_from;
  SSA_CHECK(fs::is_directory(path), "init_from: ", path.string(),
            " is no directory, expected a Hugging Face directory, a checkpoint or a run");
  std::vector<CheckpointInfo> skipped;
  const std::optional<fs::path> checkpoint = checkpoint_at(path, skipped);
  for (const CheckpointInfo& bad : skipped) spdlog::warn("skipping {}: {}", bad.path.string(), bad.problem);
  if (!checkpoint && config.init_state != InitState::weights)
    fail_usage("init_state: found ", name_of(config.init_state), ", expected weights: init_from ", path.string(),
               " is neither a checkpoint nor a run and has no optimizer state");
  return checkpoint;
}

std::string what_is_taken(InitState state, const TrainerState& saved) {
  const std::string moments = concat("moments of ", saved.earlier_steps + saved.step, " steps");
  switch (state) {
    case InitState::weights: return "taken: weights; new: moments, step and position in the data (init_state weights)";
    case InitState::optimizer:
      return concat("taken: weights and ", moments, "; new: step and position in the data (init_state optimizer)");
    case InitState::run:
      return concat("taken: weights, ", moments, ", step ", saved.step, " and position in the data after ", saved.rows,
                    " rows (init_state run)");
  }
  fail("init_state: unknown value ", static_cast<int>(state));
}

void check_init_checkpoint(const Config& config, const CheckpointReader& checkpoint, std::vector<std::string>& notes) {
  const fs::path file = checkpoint.path() / "config.json";
  const HuggingFaceConfig from = model_of(checkpoint);
  compare_attention(file, from, config, notes);
  compare_models(file, from, config.model, notes);
  checkpoint.check(published_parameters(config.model));
}

AddedGates gates_for_dense(const fs::path& directory, Method method, const ModelConfig& model,
                           std::vector<std::string>& notes) {
  const Branches branches = branches_of(training_path(method), model);
  AddedGates gates;
  if (!branches.aligned)
    gates.gated_outputs = branches.full + branches.selected + branches.compressed + branches.window;
  notes.push_back(concat(directory.string(),
                         ": a dense LLaMA without gates: g_proj is 0, so that every gate is 0.5, and ",
                         "v_proj is multiplied by ", gates.value_scale(),
                         gates.gated_outputs == 1 ? ": full attention computes what the dense model does"
                                                  : ": attention is the mean of its branches"));
  return gates;
}

HuggingFaceWeights open_init_from(const Config& config, std::vector<std::string>& notes) {
  const fs::path directory = *config.init_from, file = directory / "config.json";
  HuggingFaceWeights weights(directory);
  std::optional<AddedGates> gates;
  if (is_present(file)) {
    const HuggingFaceConfig from = read_hugging_face_config(file);
    for (const std::string& note : from.notes) notes.push_back(concat("init_from ", file.string(), ": ", note));
    if (from.dense)
      gates = gates_for_dense(directory, config.attention.method, config.model, notes);
    else
      compare_attention(file, from, config, notes);
    compare_models(file, from, config.model, notes);
  } else {
    notes.push_back(concat("init_from ", directory.string(), ": no config.json: nothing but the shapes was compared"));
  }
  weights.check(config.model, gates);
  return weights;
}

void check_init_tokenizer(const Config& config, const fs::path& from, const std::vector<std::string>& allowed,
                          std::vector<std::string>& notes) {
  const auto data = training_dataset_info(config.data);
  if (!data) return;
  const std::string other = other_tokenizer(from, *data);
  if (other.empty()) return;
  const std::string found = concat("init_from ", from.string(), ": the model's tokenizer is ", other);
  if (!is_checkpoint(from)) {  // two files can give the same ids
    notes.push_back(concat(found, "; the data was made with ", tokenizer_of(*data)));
    return;
  }
  if (!allows(allowed, "init_from"))
    fail_usage(found, ", expected ", tokenizer_of(*data),
               ", which the data was made with. If both give the same ids, or ",
               "the model is to learn another tokenizer, give --allow-change init_from");
  notes.push_back(concat(found, "; the data was made with ", tokenizer_of(*data), " (allowed by --allow-change)"));
}

}  // namespace ssa
