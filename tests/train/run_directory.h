// A directory with the files of a golden case, in which ssa_train runs.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/paths.h"
#include "support/run_program.h"
#include "support/temp_dir.h"

namespace ssa::test {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

/// `names`, and then `more`.
inline Names with(Names names, const Names& more) {
  names.insert(names.end(), more.begin(), more.end());
  return names;
}

class RunDirectory {
 public:
  /// config.json, model/ and data/ of tests/golden/cases/NAME: a model of two layers, 8 steps.
  explicit RunDirectory(const std::string& name, const std::string& device = "cpu") : device_(device) {
    const fs::path golden = ssa::test::source_dir() / "tests/golden/cases" / name;
    for (const char* part : {"config.json", "model", "data"})
      fs::copy(golden / part, directory_ / part, fs::copy_options::recursive);
  }

  fs::path operator/(const fs::path& name) const { return directory_ / name; }
  const fs::path& path() const { return directory_.path(); }

  /// The ssa_train command with output_dir `output`; `overrides` are the arguments of --set.
  Arguments command(const std::string& output, const Names& overrides = {}, const Names& more = {}) const {
    Arguments all = {"ssa_train", "--config", "config.json", "--device", device_, "--set", "output_dir=" + output};
    for (const std::string& set : overrides) all.insert(all.end(), {"--set", set});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  ProgramResult train(const std::string& output, const Names& overrides = {}, const Names& more = {},
                      int ranks = 1) const {
    return run_program(command(output, overrides, more), {.directory = path(), .ranks = ranks});
  }
  /// The same; the run must be complete.
  void train_to_end(const std::string& output, const Names& overrides = {}, const Names& more = {},
                    int ranks = 1) const {
    const ProgramResult result = train(output, overrides, more, ranks);
    INFO(result.out << result.err);
    REQUIRE(result.exit_code == 0);
  }

  /// metrics.jsonl without measured times; checks that the steps are 1, 2, 3, ...
  std::vector<nlohmann::json> metrics(const std::string& output) const {
    std::vector<nlohmann::json> lines;
    std::ifstream stream(directory_ / output / "metrics.jsonl");
    for (std::string line; std::getline(stream, line);) {
      lines.push_back(nlohmann::json::parse(line));
      CHECK(lines.back().at("step") == lines.size());
      for (const char* key : {"tokens_per_second", "step_ms", "host_memory_gb"}) REQUIRE(lines.back().erase(key) == 1);
      for (const char* key : {"model_flops_utilization", "executed_tflops"})
        CHECK((lines.back().erase(key) == 0 || device_ != "cpu"));
    }
    return lines;
  }
  /// The names in checkpoints/, including temporary directories of a killed writer.
  Names checkpoints(const std::string& output) const { return names_in(directory_ / output / "checkpoints"); }
  fs::path checkpoint(const std::string& output, int step) const {
    const std::string digits = std::to_string(step);
    return directory_ / output / "checkpoints" / ("step-" + std::string(8 - digits.size(), '0') + digits);
  }

  static Names names_in(const fs::path& directory) {
    Names names;
    if (fs::exists(directory))
      for (const auto& entry : fs::directory_iterator(directory)) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  TempDir directory_;
  std::string device_;
};

/// Runs a line of bash in the directory of the run; $TRAIN is the command of ssa_train with output in `out`.
inline ProgramResult run_bash(const RunDirectory& run, const std::string& line, const Names& overrides = {}) {
  std::string train;
  for (const std::string& word : run.command("out", overrides))
    train += (train.empty() ? (binary_dir() / word).string() : word) + " ";
  return run_program({"/bin/bash", "-c", "TRAIN='" + train + "'; " + line}, {.directory = run.path()});
}

/// Changes the checksum of the tokenizer in a dataset.json.
inline void name_other_tokenizer(const fs::path& file) {
  std::string info = ssa::read_file(file);
  const std::size_t at = info.find("\"sha256\": \"") + 11;
  info[at] = info[at] == '0' ? '1' : '0';
  write_file(file, info);
}

/// Checks that two checkpoints have the same weights and moments bit for bit.
inline void check_same_state(const fs::path& a, const fs::path& b) {
  INFO(a << " and " << b);
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    INFO(file);
    CHECK((ssa::read_file(a / file) == ssa::read_file(b / file)));
  }
}

}  // namespace ssa::test
