// ssa_train: trains a model from a config.
#include <cstdio>
#include <string>
#include <vector>

#include "ssa/dist/comm.h"
#include "ssa/train/config.h"
#include "ssa/train/train.h"

namespace {

constexpr const char* kHelp =
    R"(ssa_train: pretrains a LLaMA model with SSA sparse attention, or a baseline (full, moba, nsa)

usage: ssa_train --config FILE [--set section.key=value ...] [--resume auto|none|DIR] [--device auto|cuda|cpu] [--dry-run]
       mpirun -n RANKS ssa_train ...

  --config FILE     JSON; the README lists every key
  --set KEY=VALUE   overrides a key of the config, e.g. --set train.max_steps=100; may be given often
  --resume WHAT     auto: go on from the newest complete checkpoint of output_dir, else start fresh (default);
                    none: start fresh; or the folder of a checkpoint
  --device WHAT     auto: a GPU if there is one (default); cuda; cpu
  --dry-run         prints the resolved config, the parameters, the memory plan and the steps, and exits
  --print-config-keys  prints the README's table of config keys

example: ssa_train --config configs/tiny.json --set output_dir=runs/mine --set train.seed=7

exit code: 0 done, 1 failed, 2 wrong usage or config, 75 stopped by a signal after saving a checkpoint
)";

struct Arguments {
  std::string config;
  std::vector<std::string> overrides;
  std::string device = "auto";
  ssa::TrainOptions options;
  bool dry_run = false;
};

/// Nothing when help was printed.
bool parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) ssa::fail_usage("ssa_train: ", flag, " needs a value; see ssa_train --help");
      return argv[++i];
    };
    if (flag == "--help" || flag == "-h") {
      std::fputs(kHelp, stdout);
      return false;
    } else if (flag == "--print-config-keys") {
      std::fputs(ssa::config_keys_table().c_str(), stdout);
      return false;
    } else if (flag == "--config") {
      arguments.config = value();
    } else if (flag == "--set") {
      arguments.overrides.push_back(value());
    } else if (flag == "--resume") {
      arguments.options.resume = value();
    } else if (flag == "--device") {
      arguments.device = value();
    } else if (flag == "--dry-run") {
      arguments.dry_run = true;
    } else {
      ssa::fail_usage("ssa_train: unknown argument ", flag, "; see ssa_train --help");
    }
  }
  if (arguments.config.empty()) ssa::fail_usage("ssa_train: --config FILE is missing; see ssa_train --help");
  return true;
}

int run(int argc, char** argv) {
  Arguments arguments;
  if (!parse(argc, argv, arguments)) return ssa::kExitDone;
  const ssa::Config config = ssa::load_config(arguments.config, arguments.overrides);
  arguments.options.device = ssa::parse_device(arguments.device);
  if (arguments.dry_run) {
    std::fputs(ssa::describe_run(config, arguments.options.device, ssa::launched_ranks()).c_str(), stdout);
    return ssa::kExitDone;
  }
  const auto comm = ssa::make_comm(arguments.options.device);
  return ssa::train(config, arguments.options, *comm);
}

}  // namespace

int main(int argc, char** argv) {
  return ssa::run_ranks([&] { return run(argc, argv); });
}
