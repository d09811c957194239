// ssa_train: trains a model from a config.
#include <cstdio>
#include <exception>
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

  --config FILE     JSON; the README lists every key
  --set KEY=VALUE   overrides a key of the config, e.g. --set train.max_steps=100; may be given often
  --resume WHAT     auto: go on from the newest complete checkpoint of output_dir, else start fresh (default);
                    none: start fresh; or the directory of a checkpoint
  --device WHAT     auto: a GPU if there is one (default); cuda; cpu
  --dry-run         prints the resolved config, the parameters, the memory plan and the steps, and exits
  --print-config-keys  prints the README's table of config keys

example: ssa_train --config configs/tiny.json --set output_dir=runs/mine --set train.seed=7

exit code: 0 done, 1 failed, 2 wrong usage or config, 75 stopped by a signal after saving a checkpoint
)";

/// What the command line asks for. The config is read here, before MPI starts: it holds the time-out of that start.
struct Command {
  ssa::Config config;
  ssa::TrainOptions options;
  std::string device = "auto";
  bool dry_run = false, done = false;
};

Command read_command(int argc, char** argv) {
  Command command;
  std::string config_file;
  std::vector<std::string> overrides;
  bool print_config_keys = false;
  ssa::CommandLine line("ssa_train", kHelp);
  line.text("--config", config_file);
  line.option("--set", [&](const std::string& value) { overrides.push_back(value); });
  line.text("--resume", command.options.resume);
  line.text("--device", command.device);
  line.flag("--dry-run", command.dry_run);
  line.flag("--print-config-keys", print_config_keys);
  command.done = !line.read(argc, argv);
  if (command.done) return command;
  if (print_config_keys) {
    std::fputs(ssa::config_keys_table().c_str(), stdout);
    command.done = true;
    return command;
  }
  if (config_file.empty()) line.fail("--config FILE is missing");
  command.config = ssa::load_config(config_file, overrides);
  return command;
}

int run(Command& command) {
  if (command.done) return ssa::kExitDone;
  command.options.device = ssa::parse_device(command.device);
  if (command.dry_run) {
    std::fputs(ssa::describe_run(command.config, command.options.device, ssa::launched_ranks()).c_str(), stdout);
    return ssa::kExitDone;
  }
  const auto comm = ssa::make_comm(command.options.device, command.config.distributed.start_timeout_seconds);
  return ssa::train(command.config, command.options, *comm);
}

}  // namespace

int main(int argc, char** argv) {
  Command command;
  std::exception_ptr wrong;
  try {
    command = read_command(argc, argv);
  } catch (...) {
    wrong = std::current_exception();
  }
  return ssa::run_ranks(
      [&] {
        if (wrong) std::rethrow_exception(wrong);
        return run(command);
      },
      command.config.distributed.start_timeout_seconds);
}
