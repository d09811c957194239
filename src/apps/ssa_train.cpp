// ssa_train: trains a model from a config.
#include <cstdio>
#include <string>
#include <vector>

#include "ssa/base/command_line.h"
#include "ssa/base/program.h"
#include "ssa/base/signals.h"
#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/eval/training_tasks.h"
#include "ssa/io/checkpoint.h"
#include "ssa/train/describe_run.h"
#include "ssa/train/resume_check.h"
#include "ssa/train/run_plan.h"
#include "ssa/train/train.h"

namespace {

constexpr const char* kFooter =
    R"(Under mpirun the work is shared by the ranks: mpirun -n RANKS ssa_train ...

Example:
  ssa_train --config configs/tiny.json --set output_dir=runs/mine

Exit code: 0 done, 1 failed, 2 wrong usage or config, 75 stopped by a signal
after saving a checkpoint)";

int run(int argc, char** argv) {
  std::string config_file, device = "auto";
  std::vector<std::string> overrides, allowed_changes;
  ssa::TrainOptions options;
  bool dry_run = false, print_config_keys = false;
  ssa::CommandLine line({.program = "ssa_train",
                         .usage = "--config FILE [options]",
                         .summary = "Pretrains a LLaMA model with SSA sparse attention or a baseline method.",
                         .footer = kFooter});
  line.add_option("--config", config_file,
                  "the run's JSON config, a path or the name of an installed one; docs/config.md lists every key")
      ->option_text("FILE");
  line.add_option("--set", overrides, "overrides a config key, as in --set train.max_steps=100; may be repeated")
      ->option_text("KEY=VALUE")
      ->allow_extra_args(false);
  line.add_option("--resume", options.resume,
                  "auto: resume from the newest complete checkpoint of output_dir, or start fresh if there is none; "
                  "none: start fresh; or the directory of a checkpoint")
      ->option_text("auto|none|DIR")
      ->capture_default_str();
  line.add_option(
          "--allow-change", allowed_changes,
          "resumes although these config keys differ from the checkpoint's in what the weights or the data mean; "
          "docs/config.md lists the keys that are refused without it; init_from: starts although its tokenizer is "
          "another "
          "one than the data's")
      ->option_text("KEY,...")
      ->allow_extra_args(false);
  line.add_option("--device", device, "auto takes a GPU if there is one")
      ->option_text("auto|cuda|cpu")
      ->capture_default_str();
  line.add_flag(
      "--dry-run", dry_run,
      "print the resolved config, parameters, memory plan and steps, and exit; the plan is the one for --device, "
      "which need not be present, or with auto the plans of both devices");
  line.add_flag("--print-config-keys", print_config_keys, "print the table of config keys and exit");
  if (!line.read(argc, argv)) return ssa::kExitDone;
  if (print_config_keys) {
    for (const CLI::Option* option : line.get_options())
      if (option->count() > 0 && option->get_name() != "--print-config-keys")
        line.fail("--print-config-keys excludes ", option->get_name());
    std::fputs(ssa::config_keys_table().c_str(), stdout);
    ssa::finish_output();
    return ssa::kExitDone;
  }
  if (config_file.empty()) line.fail("--config FILE is missing");

  const ssa::Config config = ssa::load_config(ssa::find_config(config_file), overrides);
  options.device = ssa::parse_device(device);
  for (const std::string& argument : allowed_changes)
    for (std::string& key : ssa::parse_allowed_changes(argument)) options.allowed_changes.push_back(std::move(key));
  options.tasks = ssa::eval::training_tasks(config);
  if (dry_run) {
    if (options.resume != "auto" && options.resume != "none")
      const ssa::CheckpointReader named(options.resume, ssa::Verify::sizes);  // throws if it is no checkpoint
    std::vector<ssa::DeviceKind> devices = {options.device};
    if (device == "auto") devices = {ssa::DeviceKind::cpu, ssa::DeviceKind::cuda};
    const std::string plan = ssa::describe_run(config, devices, ssa::launched_ranks(), options.allowed_changes);
    if (ssa::launched_rank() != 0) return ssa::kExitDone;  // rank 0 prints the same
    std::fputs(plan.c_str(), stdout);
    for (const std::string& task : options.tasks.lines) std::printf("  eval_tasks: %s\n", task.c_str());
    ssa::finish_output();
    return ssa::kExitDone;
  }
  const auto comm = ssa::make_comm(options.device, ssa::phase_timeouts(config.distributed));
  return ssa::train(config, options, *comm);
}

}  // namespace

int main(int argc, char** argv) {
  ssa::catch_stop_signals();
  return ssa::run_ranks([&] { return run(argc, argv); });
}
