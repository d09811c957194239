#include "ssa/train/describe_run.h"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <string_view>

#include "ssa/train/run_plan.h"
#include "ssa/train/schedule.h"

namespace ssa {

std::string describe_run(const Config& config, const std::vector<DeviceKind>& devices, int ranks) {
  const bool one_device = devices.size() == 1;
  if (one_device) check_supported(state_shape(config, devices[0], ranks));
  const ParamTable table(config.model, ranks);
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
  if (!std::filesystem::exists(config.data.path) && !megatron_prefix(config.data.path))
    return text + "  " + config.data.path + " does not exist yet\n";
  const Dataset dataset = open_dataset(config.data.path, config);
  const RowLoader loader(dataset, row_options(config));
  const BatchPlan plan = plan_batches(config, loader.rows(), ranks);
  const std::int64_t steps = total_steps(config.train, plan);
  const std::int64_t step_tokens = plan.global_rows() * config.train.max_length;
  text += concat("  documents                ", dataset.documents(), "\n  tokens                   ", dataset.tokens(),
                 "\n  rows per epoch           ", loader.rows(), "\n  rows per global batch    ", plan.global_rows(),
                 "\n  micro-batches per step   ", plan.micro_batches(), " on each of ", ranks, " ranks",
                 "\n  steps per epoch          ", plan.batches_per_epoch(), "\n  steps                    ", steps,
                 "\n  tokens of the run        ", steps * step_tokens, "\n");
  return text;
}

}  // namespace ssa
