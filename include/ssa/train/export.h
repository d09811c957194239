// A checkpoint as a Hugging Face directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ssa/io/checkpoint.h"
#include "ssa/io/huggingface.h"
#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

struct ExportOptions {
  FileDType dtype = FileDType::bf16;  ///< bf16 or f32
  std::uint64_t max_shard_bytes = kMaxShardBytes;
  std::string tokenizer;  ///< tokenizer file or directory; empty: `bytes` if the run's dataset names it, else none
  TokenizerOptions tokenizer_options = {};
};

struct ExportResult {
  std::int64_t parameters;
  std::vector<std::string> notes;  ///< messages for the user
};

/// Writes weights, config.json, generation_config.json, the model's Python code and the tokenizer. `directory` must be
/// new or empty; a failed export leaves nothing. Throws UsageError if the tokenizer does not fit the model.
ExportResult export_checkpoint(const CheckpointReader& checkpoint, const std::filesystem::path& directory,
                               const ExportOptions& options = {});

}  // namespace ssa
