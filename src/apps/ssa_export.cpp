// ssa_export: a checkpoint to a Hugging Face directory.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "ssa/base/command_line.h"
#include "ssa/base/program.h"
#include "ssa/config/config.h"
#include "ssa/data/dataset.h"
#include "ssa/io/checkpoint.h"
#include "ssa/io/huggingface.h"
#include "ssa/tokenizer/hugging_face_tokenizer.h"

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

constexpr std::size_t kPieceElements = std::size_t{1} << 22;  // 16 MiB of f32 at a time

fs::path find_checkpoint(const fs::path& path) {
  if (!fs::is_directory(path)) ssa::fail_usage(path.string(), ": no such directory, expected a checkpoint or a run");
  if (!fs::is_directory(path / "checkpoints")) return path;
  std::vector<ssa::CheckpointInfo> skipped;
  const auto newest = ssa::newest_checkpoint(path, skipped);
  for (const auto& info : skipped)
    fmt::print(stderr, "ssa_export: skipping {}: {}\n", info.path.string(), info.problem);
  if (!newest) ssa::fail(path.string(), ": no complete checkpoint");
  return newest->path;
}

/// The contents of the run's dataset.json; nullopt, with the cause in `reason`, if it cannot be read.
std::optional<ssa::DatasetInfo> dataset_info(const ssa::Config& config, std::string& reason) {
  const fs::path file = fs::path(config.data.path) / "dataset.json";
  try {
    if (fs::exists(file)) return ssa::read_dataset_info(file);
    reason = ssa::concat("there is no ", file.string());
  } catch (const ssa::Error& error) {
    reason = error.what();
  }
  return std::nullopt;
}

/// The tokenizer's files by name; none if no tokenizer was given and the dataset names none that is built in. Sets
/// `note` to a message for the user, if there is something to report.
std::map<std::string, std::string> tokenizer_files(std::string path, const ssa::TokenizerOptions& options,
                                                   const ssa::Config& config, std::string& note) {
  std::string reason;
  const auto info = dataset_info(config, reason);
  if (path.empty() && info) {
    if (info->tokenizer_name == "bytes")
      path = "bytes";
    else
      reason = ssa::concat("the dataset ", config.data.path, " names ", info->tokenizer_name);
  }
  if (path.empty()) {
    note = ssa::concat("no tokenizer files: ", reason, ", and no --tokenizer was given");
    return {};
  }
  const ssa::Tokenizer::Parts parts = ssa::read_tokenizer(path, options);
  const auto vocab_size = static_cast<std::int64_t>(parts.texts.size());
  if (vocab_size > config.model.vocab_size || parts.eos_token_id != config.model.eos_token_id)
    ssa::fail_usage("--tokenizer ", path, ": ", vocab_size, " ids, end of text ", parts.eos_token_id,
                    "; the checkpoint's model has vocab_size ", config.model.vocab_size, ", eos_token_id ",
                    config.model.eos_token_id);
  if (info && info->tokenizer_sha256 != parts.sha256)
    note = ssa::concat("--tokenizer ", path, " is another file than the one the dataset ", config.data.path, " names, ",
                       info->tokenizer_name);
  return ssa::hugging_face_tokenizer(path, parts);
}

int run(int argc, char** argv) {
  std::string source, directory, tokenizer;
  ssa::TokenizerOptions tokenizer_options;
  ssa::FileDType dtype = ssa::FileDType::bf16;
  double max_shard_gb = ssa::kMaxShardBytes / 1e9;
  ssa::CommandLine line({.program = "ssa_export",
                         .usage = "CHECKPOINT DIR [options]",
                         .summary = "Writes a checkpoint as a Hugging Face directory.",
                         .footer = kFooter});
  line.add_option("CHECKPOINT", source,
                  "a directory step-*, or the output_dir of a run, whose newest complete checkpoint is taken")
      ->required();
  line.add_option("DIR", directory, "a new or empty directory")->required();
  line.add_option("--tokenizer", tokenizer,
                  "what the data was tokenized with: bytes, a tokenizer.json, a tiktoken rank file, or a directory "
                  "with tokenizer.json, vocab.json and merges.txt, or tokenizer.model (default: bytes if the run's "
                  "dataset names it; else no tokenizer is written)")
      ->option_text("T");
  line.add_option("--eos-token", tokenizer_options.eos_token,
                  "the end-of-text token (default: what the tokenizer's files say)")
      ->option_text("TEXT");
  line.add_option("--pre-tokenizer", tokenizer_options.pre_tokenizer,
                  "for vocab.json and merges.txt: gpt2, smollm2, llama3 or qwen2 (default: gpt2)")
      ->option_text("NAME");
  line.add_choice("--dtype", dtype, {{"bf16", ssa::FileDType::bf16}, {"f32", ssa::FileDType::f32}}, "of the weights");
  line.add_option("--max-shard-size", max_shard_gb, "largest weights file, in units of 1e9 bytes")
      ->option_text("GB")
      ->capture_default_str()
      ->check(ssa::number("a number of GB above 0", [](double gb) { return 0 < gb && gb <= 1e9; }));
  if (!line.read(argc, argv)) return ssa::kExitDone;

  const ssa::CheckpointReader checkpoint(find_checkpoint(source));
  const ssa::Config config = ssa::parse_config(checkpoint.config(), (checkpoint.path() / "config.json").string());
  const auto parameters = ssa::published_parameters(config.model);
  checkpoint.check(parameters);

  const char* torch_dtype = dtype == ssa::FileDType::f32 ? "float32" : "bfloat16";
  std::vector<ssa::TextFile> files = ssa::hugging_face_model_code();
  files.push_back({"config.json", ssa::hugging_face_config_json(config.model, config.attention.method,
                                                                config.attention.selection, torch_dtype)});
  files.push_back({"generation_config.json", ssa::hugging_face_generation_json(config.model)});
  std::string note;
  for (auto& [name, text] : tokenizer_files(tokenizer, tokenizer_options, config, note))
    files.push_back({name, std::move(text)});
  ssa::HuggingFaceWriter writer(directory, files, parameters, dtype, static_cast<std::uint64_t>(max_shard_gb * 1e9));
  std::vector<float> piece(kPieceElements);
  std::int64_t total = 0;
  for (const ssa::NamedShape& p : parameters) {
    const std::int64_t count = ssa::count_of(p.shape);
    for (std::int64_t first = 0; first < count; first += static_cast<std::int64_t>(kPieceElements)) {
      const std::span<float> part(piece.data(),
                                  std::min<std::size_t>(kPieceElements, static_cast<std::size_t>(count - first)));
      checkpoint.read_weight(p, part, first);
      writer.append(p.name, part);
    }
    total += count;
  }
  writer.finish();
  if (!note.empty()) fmt::print(stderr, "ssa_export: {}\n", note);
  fmt::print(stderr, "{}, step {}: {} parameters written to {} as {}\n", checkpoint.path().string(), checkpoint.step(),
             total, directory, torch_dtype);
  return ssa::kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  return ssa::run_program("ssa_export", [&] { return run(argc, argv); });
}
