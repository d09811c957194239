// ssa_train: trains a model from a config.
#include <cstdio>
#include <string>
#include <vector>

#include "ssa/base/command_line.h"
#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/train/train.h"

namespace {

constexpr const char* kHelp =
    R"(ssa_train: pretrains a LLaMA model with SSA sparse attention, or a baseline (full, moba, nsa)

usage: ssa_train --config FILE [--set section.key=value ...] [--resume auto|none|DIR] [--device auto|cuda|cpu] [--dry-run]
       mpirun -n RANKS ssa_train ...

  --config FILE     JSON, a path or the name of an installed config; docs/config.md lists every key
  --set KEY=VALUE   overrides a key of the config, e.g. --set train.max_steps=100; may be given often
  --resume WHAT     auto: go on from the newest complete checkpoint of output_dir, else start fresh (default);
                    none: start fresh; or the directory of a checkpoint
  --device WHAT     auto: a GPU if there is one (default); cuda; cpu
  --dry-run         prints the resolved config, the parameters, the memory plan and the steps, and exits; the plan is
                    that of --device, which need not be present, or with auto those of both devices
  --print-config-keys  prints docs/config.md's table of config keys

example: ssa_train --config configs/tiny.json --set output_dir=runs/mine --set train.seed=7

exit code: 0 done, 1 failed, 2 wrong usage or config, 75 stopped by a signal after saving a checkpoint
)";

int run(int argc, char** argv) {
  std::string config_file, device = "auto";
  std::vector<std::string> overrides;
  ssa::TrainOptions options;
  bool dry_run = false, print_config_keys = false;
  ssa::CommandLine line("ssa_train", kHelp);
  line.text("--config", config_file);
  line.option("--set", [&](const std::string& value) { overrides.push_back(value); });
  line.text("--resume", options.resume);
  line.text("--device", device);
  line.flag("--dry-run", dry_run);
  line.flag("--print-config-keys", print_config_keys);
  if (!line.read(argc, argv)) return ssa::kExitDone;
  if (print_config_keys) {
    std::fputs(ssa::config_keys_table().c_str(), stdout);
    return ssa::kExitDone;
  }
  if (config_file.empty()) line.fail("--config FILE is missing");

  const ssa::Config config = ssa::load_config(ssa::find_config(config_file), overrides);
  options.device = ssa::parse_device(device);
  if (dry_run) {
    std::vector<ssa::DeviceKind> devices = {options.device};
    if (device == "auto") devices = {ssa::DeviceKind::cpu, ssa::DeviceKind::cuda};
    std::fputs(ssa::describe_run(config, devices, ssa::launched_ranks()).c_str(), stdout);
    return ssa::kExitDone;
  }
  const auto comm = ssa::make_comm(options.device);
  return ssa::train(config, options, *comm);
}

}  // namespace

int main(int argc, char** argv) {
  return ssa::run_ranks([&] { return run(argc, argv); });
}
