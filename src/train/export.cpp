#include "ssa/train/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "ssa/config/config.h"
#include "ssa/config/hugging_face_config.h"
#include "ssa/data/dataset.h"
#include "ssa/tokenizer/hugging_face_tokenizer.h"
#include "ssa/train/model_tokenizer.h"

namespace ssa {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPieceElements = std::size_t{1} << 22;  // 16 MiB of f32 at a time

/// The contents of the run's dataset.json; nullopt, with the cause in `reason`, if it cannot be read.
std::optional<DatasetInfo> dataset_info(const Config& config, std::string& reason) {
  try {
    if (auto info = training_dataset_info(config.data)) return info;
    reason = fmt::format("there is no {}", (fs::path(training_paths(config.data).front()) / "dataset.json").string());
  } catch (const Error& error) {
    reason = error.what();
  }
  return std::nullopt;
}

/// The tokenizer's files; none if no tokenizer was given and the dataset names none that is built in.
TokenizerFiles tokenizer_files(std::string path, const TokenizerOptions& options, const Config& config) {
  std::string reason;
  const auto info = dataset_info(config, reason);
  if (path.empty() && info) {
    if (info->tokenizer_name == "bytes")
      path = "bytes";
    else
      reason = fmt::format("the dataset {} names {}", training_paths(config.data).front(), info->tokenizer_name);
  }
  if (path.empty()) {
    for (const auto& [option, value] :
         {std::pair{"--eos-token", options.eos_token}, std::pair{"--pre-tokenizer", options.pre_tokenizer}})
      if (!value.empty()) fail_usage(option, " ", value, ": no tokenizer files (", reason, "), expected --tokenizer");
    return {.files = {}, .notes = {fmt::format("no tokenizer files: {}, and no --tokenizer was given", reason)}};
  }
  const Tokenizer::Parts parts = read_tokenizer(path, options);
  const auto vocab_size = static_cast<std::int64_t>(parts.texts.size());
  if (vocab_size > config.model.vocab_size || parts.eos_token_id != config.model.eos_token_id)
    fail_usage("--tokenizer ", path, ": ", vocab_size, " ids, end of text ", parts.eos_token_id,
               "; the checkpoint's model has vocab_size ", config.model.vocab_size, ", eos_token_id ",
               config.model.eos_token_id);
  TokenizerFiles result = hugging_face_tokenizer(path, parts);
  if (info && info->tokenizer_sha256 != parts.sha256)
    result.notes.push_back(fmt::format("--tokenizer {} is another file than the one that the dataset {} names, {}",
                                       path, training_paths(config.data).front(), info->tokenizer_name));
  return result;
}

}  // namespace

ExportResult export_checkpoint(const CheckpointReader& checkpoint, const fs::path& directory,
                               const ExportOptions& options) {
  const Config config = parse_config(checkpoint.config(), (checkpoint.path() / "config.json").string());
  const auto parameters = published_parameters(config.model, options.dtype);
  checkpoint.check(published_parameters(config.model));

  std::vector<TextFile> files = hugging_face_model_code();
  files.push_back(
      {"config.json", hugging_face_config_json(config.model, config.attention.method, config.attention.selection,
                                               options.dtype == FileDType::f32 ? "float32" : "bfloat16")});
  files.push_back({"generation_config.json", hugging_face_generation_json(config.model)});
  ExportResult result{};
  TokenizerFiles tokenizer = tokenizer_files(options.tokenizer, options.tokenizer_options, config);
  for (auto& [name, text] : tokenizer.files) files.push_back({name, std::move(text)});
  result.notes = std::move(tokenizer.notes);
  HuggingFaceWriter writer(directory, files, parameters, options.max_shard_bytes);
  std::vector<float> piece(kPieceElements);
  for (const TensorSpec& p : parameters) {
    const std::int64_t count = count_of(p.shape);
    for (std::int64_t first = 0; first < count; first += static_cast<std::int64_t>(kPieceElements)) {
      const std::span<float> part(piece.data(),
                                  std::min<std::size_t>(kPieceElements, static_cast<std::size_t>(count - first)));
      checkpoint.read_weight(p, part, first);
      writer.append(p.name, part);
    }
    result.parameters += count;
  }
  writer.finish();
  return result;
}

}  // namespace ssa
