#include "ssa/train/model_tokenizer.h"

#include <algorithm>
#include <vector>

#include "ssa/base/file.h"
#include "ssa/io/checkpoint.h"
#include "ssa/tokenizer/hugging_face_tokenizer.h"

namespace ssa {
namespace fs = std::filesystem;

std::optional<DatasetInfo> training_dataset_info(const DataConfig& data) {
  for (const std::string& path : training_paths(data))
    if (const fs::path file = fs::path(path) / "dataset.json"; is_present(file)) return read_dataset_info(file);
  return std::nullopt;
}

std::optional<DatasetInfo> checkpoint_dataset_info(const fs::path& model) {
  if (!is_checkpoint(model)) return std::nullopt;
  const fs::path file = model / "config.json";
  return training_dataset_info(parse_config(read_file(file), file.string()).data);
}

std::string tokenizer_of(const DatasetInfo& data) {
  return concat(data.tokenizer_name, ", sha256 ", data.tokenizer_sha256);
}

std::string other_tokenizer(const fs::path& model, const DatasetInfo& data) {
  if (is_checkpoint(model)) {
    const auto trained = checkpoint_dataset_info(model);
    return trained && trained->tokenizer_sha256 != data.tokenizer_sha256 ? tokenizer_of(*trained) : "";
  }
  const std::vector<TokenizerChecksum> files = tokenizer_checksums(model);
  const auto same = [&](const TokenizerChecksum& file) { return file.sha256 == data.tokenizer_sha256; };
  if (files.empty() || std::ranges::any_of(files, same)) return "";
  return concat(files.front().file.string(), ", sha256 ", files.front().sha256);
}

}  // namespace ssa
