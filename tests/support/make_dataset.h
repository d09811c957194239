// Writes datasets from vectors of token ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "ssa/data/indexed_dataset.h"

namespace ssa::test {

using TokenIds = std::vector<std::int32_t>;  ///< token ids, end-of-text included
using Documents = std::vector<TokenIds>;

/// Writes PREFIX.bin and PREFIX.idx.
void write_indexed_dataset(const std::filesystem::path& prefix, const Documents& documents,
                           TokenType type = TokenType::uint16);

struct DatasetOptions {
  std::int64_t vocab_size = 257;
  std::int64_t eos_token_id = 256;
  TokenType type = TokenType::uint16;
  bool json = true;  ///< write dataset.json too
};

/// Writes DIRECTORY/shard-00000.{bin,idx}, shard-00001... and dataset.json.
void make_dataset(const std::filesystem::path& directory, const std::vector<Documents>& shards,
                  const DatasetOptions& options = {});

/// `count` documents of 1 to `max_length` tokens, most of them short: random ids below `eos`, then `eos`.
Documents random_documents(std::int64_t count, std::int64_t max_length, std::uint64_t seed, std::int32_t eos = 256);

}  // namespace ssa::test
