// ssa_export: a checkpoint to a Hugging Face directory.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "ssa/base/command_line.h"
#include "ssa/base/program.h"
#include "ssa/train/export.h"
#include "ssa/train/run_log.h"

namespace {

namespace fs = std::filesystem;

constexpr const char* kFooter =
    R"(The directory gets model.safetensors (or shards with an index), config.json,
generation_config.json, the model's Python code and the tokenizer. Load it with
  AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True)
  AutoTokenizer.from_pretrained(DIR, trust_remote_code=True)

Example:
  ssa_export runs/ssa-1b models/ssa-1b --tokenizer llama3/tokenizer.json

Exit code: 0 done, 1 failed, 2 wrong usage)";

fs::path find_checkpoint(const fs::path& path) {
  if (!fs::is_directory(path)) ssa::fail_usage(path.string(), ": no such directory, expected a checkpoint or a run");
  std::vector<ssa::CheckpointInfo> skipped;
  const std::optional<fs::path> checkpoint = ssa::checkpoint_at(path, skipped);
  for (const auto& info : skipped)
    fmt::print(stderr, "ssa_export: skipping {}: {}\n", info.path.string(), info.problem);
  return checkpoint.value_or(path);  // what is missing in a directory that is no checkpoint is said when it is read
}

int run(int argc, char** argv) {
  std::string source, directory;
  ssa::ExportOptions options;
  double max_shard_gb = ssa::kMaxShardBytes / 1e9;
  ssa::CommandLine line({.program = "ssa_export",
                         .usage = "CHECKPOINT DIR [options]",
                         .summary = "Writes a checkpoint as a Hugging Face directory.",
                         .footer = kFooter});
  line.add_option("CHECKPOINT", source,
                  "a directory step-*, or the output_dir of a run, whose newest complete checkpoint is taken")
      ->required();
  line.add_option("DIR", directory, "a new or empty directory")->required();
  line.add_option(
          "--tokenizer", options.tokenizer,
          "what the data was tokenized with: bytes, a tokenizer.json, a tekken.json, a tiktoken rank file, or a "
          "directory with one of them or with vocab.json and merges.txt (default: bytes if the run's "
          "dataset names it; else no tokenizer is written)")
      ->option_text("T");
  line.add_option("--eos-token", options.tokenizer_options.eos_token,
                  "the end-of-text token (default: from the tokenizer's files)")
      ->option_text("TEXT");
  line.add_option("--pre-tokenizer", options.tokenizer_options.pre_tokenizer,
                  "for vocab.json and merges.txt: gpt2, smollm2, llama3 or qwen2 (default: as tokenizer_config.json's "
                  "class, or gpt2)")
      ->option_text("NAME");
  line.add_choice("--dtype", options.dtype, {{"bf16", ssa::FileDType::bf16}, {"f32", ssa::FileDType::f32}},
                  "of the weights");
  line.add_option("--max-shard-size", max_shard_gb, "largest weights file, in units of 1e9 bytes")
      ->option_text("GB")
      ->capture_default_str()
      ->check(ssa::number("a number of GB above 0", [](double gb) { return 0 < gb && gb <= 1e9; }));
  if (!line.read(argc, argv)) return ssa::kExitDone;

  const ssa::CheckpointReader checkpoint(find_checkpoint(source));
  options.max_shard_bytes = static_cast<std::uint64_t>(max_shard_gb * 1e9);
  const ssa::ExportResult result = ssa::export_checkpoint(checkpoint, directory, options);
  for (const std::string& note : result.notes) fmt::print(stderr, "ssa_export: {}\n", note);
  fmt::print(stderr, "{}, step {}: {} parameters written to {} as {}\n", checkpoint.path().string(), checkpoint.step(),
             result.parameters, directory, options.dtype == ssa::FileDType::f32 ? "float32" : "bfloat16");
  return ssa::kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  ssa::log_to_stderr();
  return ssa::run_program("ssa_export", [&] { return run(argc, argv); });
}
