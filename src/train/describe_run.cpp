#include "ssa/train/describe_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <map>
#include <optional>
#include <string_view>

#include "ssa/train/init_from.h"
#include "ssa/train/run_plan.h"
#include "ssa/train/schedule.h"
#include "ssa/train/training_data.h"

namespace ssa {
namespace {

TrainerState saved_state(const std::filesystem::path& checkpoint, const Config& config) {
  SpikeDetector spikes(config.train.spike_window);
  return trainer_state(CheckpointReader(checkpoint, Verify::sizes).trainer(), (checkpoint / "trainer.json").string(),
                       spikes);
}

/// The state of the checkpoint that the run continues (init_state run), or of a new run.
TrainerState start_state(const Config& config) {
  if (config.init_state != InitState::run || !std::filesystem::exists(*config.init_from)) return {};
  TrainerState state = saved_state(*init_checkpoint(config), config);
  if (state.sources.empty() == !config.data.path) state.position = {};  // the run will read its data in another way
  return state;
}

/// What is taken from init_from.
std::vector<std::string> init_lines(const Config& config, const std::vector<std::string>& allowed_changes) {
  if (!std::filesystem::exists(*config.init_from)) return {*config.init_from + " does not exist yet"};
  const auto checkpoint = init_checkpoint(config);
  std::vector<std::string> lines = {""};
  if (config.init_state != InitState::run)
    check_init_tokenizer(config, checkpoint.value_or(*config.init_from), allowed_changes, lines);
  if (!checkpoint) {
    lines[0] = *config.init_from + "; taken: weights of a Hugging Face directory";
    return lines;
  }
  lines[0] = checkpoint->string() + "; " + what_is_taken(config.init_state, saved_state(*checkpoint, config));
  return lines;
}

/// A line if there is no dataset at `path`, else "".
std::string absent_line(const std::string& path) {
  return std::filesystem::exists(path) || megatron_prefix(path) ? "" : "  " + path + " does not exist yet\n";
}

/// The lines of the training data that is there, of which `rows_left` more rows are read after `start`.
std::string describe_sources(const Config& config, const TrainingData& data, const TrainerState& start,
                             std::optional<std::int64_t> rows_left) {
  std::vector<std::string> rows;
  if (data.mixed()) rows = source_table(config, data, start, rows_left);
  std::ranges::move(kept_lines(data), std::back_inserter(rows));
  std::ranges::move(packing_comparison(data, config), std::back_inserter(rows));
  std::string text;
  for (const std::string& row : rows) text += "  " + row + "\n";
  return text;
}

/// What is known of a mix of which not all sources are there: `data` has the others.
std::string describe_incomplete_mix(const Config& config, const TrainingData& data, int ranks) {
  const TrainerState start = start_state(config);
  std::optional<std::int64_t> rows_left;
  if (config.train.max_steps > 0) {
    const BatchSizes sizes = batch_sizes(config.train, ranks);
    rows_left = sizes.rows_before(config.train.max_steps) - sizes.rows_before(start.step);
  }
  return describe_sources(config, data, start, rows_left);
}

/// A line for each dataset of data.eval_path.
std::string describe_eval_sets(const Config& config, const TrainingData& data) {
  Config present = config;
  present.data.eval_path.clear();
  std::string absent;
  for (const EvalConfig& set : config.data.eval_path)
    if (const std::string line = absent_line(set.path); line.empty())
      present.data.eval_path.push_back(set);
    else
      absent += line;
  std::string text;
  for (const EvalSet& set : open_eval_sets(present, data))
    text += concat("  evaluation", set.name.empty() ? "" : " ", set.name, ": ", set.dataset.documents(), " documents, ",
                   set.dataset.tokens(), " tokens, ", set.loader.rows(), " rows\n");
  return text + absent;
}

}  // namespace

std::string describe_run(const Config& config, const std::vector<DeviceKind>& devices, int ranks,
                         const std::vector<std::string>& allowed_changes) {
  const bool one_device = devices.size() == 1;
  if (one_device) check_supported(state_shape(config, devices[0], ranks));
  const ParamTable table(config.model, state_shape(config, devices[0], ranks).shards());
  std::string text = "config\n";
  for (const std::string& line : config_lines(config)) text += "  " + line + "\n";

  std::map<std::string, std::int64_t> groups;
  for (const Param& p : table.params()) {
    constexpr std::size_t kLayer = std::string_view("model.layers.").size();
    const bool in_layer = p.name.starts_with("model.layers.");
    groups[in_layer ? concat("model.layers.*", p.name.substr(p.name.find('.', kLayer))) : p.name] += p.count();
  }
  text += "\nparameters\n";
  const auto line = [&](const std::string& name, std::int64_t count) {
    text += fmt::format("  {:<54}{}\n", name, count);
  };
  for (const auto& [name, count] : groups) line(name, count);
  line("total", table.parameter_count());

  for (const DeviceKind device : devices) {
    text += concat("\nmemory on ", name_of(device), ", bytes per rank\n");
    const StateShape shape = state_shape(config, device, ranks);
    try {
      check_supported(shape);
    } catch (const UsageError& error) {
      text += concat("  ", error.what(), "\n");
      continue;
    }
    text += plan_memory(shape, table).to_string();
    if (device == DeviceKind::cpu) continue;
    text += "  in addition on the GPU: the CUDA context, 64 MiB for cuBLASLt, and NCCL's buffers\n";
    if (!SSA_WITH_CUDA) text += "  not counted, as this build has no CUDA backend: scratch of the attention kernels\n";
  }
  if (!one_device) text += "\n--device cpu or --device cuda shows only that device.\n";

  if (config.init_from) {
    text += "\ninit_from\n";
    for (const std::string& row : init_lines(config, allowed_changes)) text += "  " + row + "\n";
  }

  text += "\ndata\n";
  std::string missing;
  const auto note_missing = [&](const std::string& path) {
    const std::string absent = absent_line(path);
    if (missing.find(absent) == std::string::npos) missing += absent;
    return !absent.empty();
  };
  Config present = config;
  std::erase_if(present.data.sources, [&](const SourceConfig& source) { return note_missing(source.path); });
  if (config.data.path ? note_missing(*config.data.path) : present.data.sources.empty()) {
    for (const EvalConfig& set : config.data.eval_path) note_missing(set.path);
    return text + missing;
  }
  const TrainingData data(present);
  if (!missing.empty())
    return text + missing + describe_incomplete_mix(config, data, ranks) + describe_eval_sets(config, data);
  std::int64_t documents = 0, tokens = 0;
  for (const TrainingSource& source : data.sources()) {
    documents += source.kept.documents;
    tokens += source.kept.tokens;
  }
  const BatchPlan plan = plan_batches(config, data.plan_sources(), ranks);
  const TrainerState start = start_state(config);
  const std::int64_t steps = total_steps(config.train, plan, start.step, start.position);
  check_schedule(config.train, steps);
  if (start.step > 0) check_branch(config.train, start.step, steps);
  const BatchSizes& sizes = plan.batch_sizes();
  const std::int64_t rows_left = sizes.rows_before(steps) - sizes.rows_before(start.step);
  text += concat("  documents                ", documents, "\n  tokens                   ", tokens,
                 "\n  rows per epoch           ", data.rows_per_epoch(), "\n");
  if (sizes.constant())
    text +=
        concat("  rows per global batch    ", plan.global_rows(), "\n  micro-batches per step   ", plan.micro_batches(),
               " on each of ", ranks, " ranks", "\n  steps per epoch          ", plan.batches_per_epoch(), "\n");
  else
    for (const std::string& row : batch_size_lines(plan, config.train.max_length)) text += "  " + row + "\n";
  text += concat("  steps                    ", steps, "\n");
  if (start.step > 0) text += concat("  of them by init_from     ", start.step, "\n");
  text += concat("  tokens of the run        ", (start.rows + rows_left) * config.train.max_length, "\n  ",
                 schedule_line(config.train, steps), "\n");
  return text + describe_sources(config, data, start, rows_left) + describe_eval_sets(config, data);
}

}  // namespace ssa
