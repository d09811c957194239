// Writes dataset.json, which src/data/dataset.cpp reads: a dataset's tokenizer and shards, with checksums.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "ssa/data/dataset.h"
#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

nlohmann::ordered_json shards_json(const std::vector<ShardInfo>& shards);

void write_dataset_json(const std::filesystem::path& directory, const Tokenizer& tokenizer, TokenType type,
                        const std::vector<ShardInfo>& shards);

}  // namespace ssa
