#include "ssa/train/describe_run.h"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <string_view>

#include "ssa/train/run_plan.h"
#include "ssa/train/schedule.h"
#include "ssa/train/training_data.h"

namespace ssa {

std::string describe_run(const Config& config, const std::vector<DeviceKind>& devices, int ranks) {
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
    text += "  in addition: the CUDA context, 64 MiB for cuBLASLt, and NCCL's buffers\n";
    if (!SSA_WITH_CUDA) text += "  not counted, as this build has no CUDA backend: scratch of the attention kernels\n";
  }
  if (!one_device) text += "\n--device cpu or --device cuda shows only that device.\n";

  text += "\ndata\n";
  std::string missing;
  for (const std::string& path : training_paths(config.data))
    if (!std::filesystem::exists(path) && !megatron_prefix(path)) missing += "  " + path + " does not exist yet\n";
  if (!missing.empty()) return text + missing;
  const TrainingData data(config);
  std::int64_t documents = 0, tokens = 0;
  for (const TrainingSource& source : data.sources()) {
    documents += source.dataset.documents();
    tokens += source.dataset.tokens();
  }
  const BatchPlan plan = plan_batches(config, data.plan_sources(), ranks);
  const std::int64_t steps = total_steps(config.train, plan);
  const std::int64_t step_tokens = plan.global_rows() * config.train.max_length;
  text += concat("  documents                ", documents, "\n  tokens                   ", tokens,
                 "\n  rows per epoch           ", data.rows_per_epoch(), "\n  rows per global batch    ",
                 plan.global_rows(), "\n  micro-batches per step   ", plan.micro_batches(), " on each of ", ranks,
                 " ranks", "\n  steps per epoch          ", plan.batches_per_epoch(), "\n  steps                    ",
                 steps, "\n  tokens of the run        ", steps * step_tokens, "\n");
  if (data.mixed())
    for (const std::string& row : source_table(data, steps * plan.global_rows(), config.train.max_length))
      text += "  " + row + "\n";
  for (const std::string& row : packing_comparison(data, config)) text += "  " + row + "\n";
  return text;
}

}  // namespace ssa
