#include "ssa/train/init_from.h"

#include <optional>

#include "ssa/config/hugging_face_config.h"
#include "ssa/model/attention_path.h"

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
  note("tie_word_embeddings", model.tie_word_embeddings, run.tie_word_embeddings);
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

}  // namespace

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
  if (fs::exists(file)) {
    const HuggingFaceConfig from = read_hugging_face_config(file);
    for (const std::string& note : from.notes) notes.push_back(concat("init_from ", file.string(), ": ", note));
    const AttentionConfig& attention = config.attention;
    if (from.dense) {
      gates = gates_for_dense(directory, attention.method, config.model, notes);
    } else {
      compare(file, "attention method", "attention.method", from.method, attention.method, config.method_given, notes);
      if (attention.method != Method::full)
        compare(file, "selection", "attention.selection", from.selection, attention.selection, config.selection_given,
                notes);
    }
    compare_models(file, from, config.model, notes);
  } else {
    notes.push_back(concat("init_from ", directory.string(), ": no config.json: nothing but the shapes was compared"));
  }
  weights.check(config.model, gates);
  return weights;
}

}  // namespace ssa
