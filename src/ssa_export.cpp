// ssa_export: a checkpoint to a Hugging Face folder.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "ssa/base/program.h"
#include "ssa/train/checkpoint.h"
#include "ssa/train/config.h"
#include "ssa/train/huggingface.h"

namespace {

namespace fs = std::filesystem;

constexpr const char* kHelp =
    R"(Usage: ssa_export CHECKPOINT DIR [--dtype bf16|f32]

Writes the weights of a checkpoint as a Hugging Face folder: config.json and model.safetensors (above 5 GB in shards
with an index).

  CHECKPOINT        a folder step-*, or the output_dir of a run, whose newest complete checkpoint is taken
  DIR               a new or an empty folder
  --dtype bf16|f32  of the weights (bf16)
  --help

Example:
  ssa_export runs/ssa-1b models/ssa-1b
)";

constexpr std::size_t kPieceElements = std::size_t{1} << 22;  // 16 MiB of f32 at a time

fs::path find_checkpoint(const fs::path& path) {
  if (!fs::is_directory(path)) ssa::fail_usage(path.string(), ": no such folder, expected a checkpoint or a run");
  if (!fs::is_directory(path / "checkpoints")) return path;
  std::vector<ssa::CheckpointInfo> skipped;
  const auto newest = ssa::newest_checkpoint(path, skipped);
  for (const auto& info : skipped)
    std::fprintf(stderr, "ssa_export: skipping %s: %s\n", info.path.c_str(), info.problem.c_str());
  if (!newest) ssa::fail(path.string(), ": no complete checkpoint");
  return newest->path;
}

int run(int argc, char** argv) {
  std::vector<std::string> paths;
  ssa::FileDType dtype = ssa::FileDType::bf16;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--help" || argument == "-h") {
      std::fputs(kHelp, stdout);
      return ssa::kExitDone;
    }
    if (argument == "--dtype") {
      const std::string value = i + 1 < argc ? argv[++i] : "";
      if (value != "bf16" && value != "f32") ssa::fail_usage("--dtype ", value, ": expected bf16 or f32");
      dtype = value == "f32" ? ssa::FileDType::f32 : ssa::FileDType::bf16;
    } else if (argument.starts_with("-")) {
      ssa::fail_usage(argument, ": unknown option, see ssa_export --help");
    } else {
      paths.push_back(argument);
    }
  }
  if (paths.size() != 2) ssa::fail_usage(paths.size(), " paths, expected CHECKPOINT and DIR, see ssa_export --help");

  const ssa::CheckpointReader checkpoint(find_checkpoint(paths[0]));
  const ssa::Config config = ssa::parse_config(checkpoint.config(), (checkpoint.path() / "config.json").string());
  const auto parameters = ssa::published_parameters(config.model);
  checkpoint.check(parameters);

  const char* torch_dtype = dtype == ssa::FileDType::f32 ? "float32" : "bfloat16";
  std::vector<ssa::TextFile> files = ssa::hugging_face_model_code();
  files.push_back({"config.json", ssa::hugging_face_config_json(config.model, config.attention.method,
                                                                config.attention.selection, torch_dtype)});
  files.push_back({"generation_config.json", ssa::hugging_face_generation_json(config.model)});
  ssa::HuggingFaceWriter writer(paths[1], files, parameters, dtype);
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
  std::fprintf(stderr, "%s, step %lld: %lld parameters written to %s as %s\n", checkpoint.path().c_str(),
               static_cast<long long>(checkpoint.step()), static_cast<long long>(total), paths[1].c_str(), torch_dtype);
  return ssa::kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  return ssa::run_program("ssa_export", [&] { return run(argc, argv); });
}
