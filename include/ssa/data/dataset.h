// Dataset: the shards of a directory, or one shard, as one list of documents, each with its end-of-text token.
//
//   shard-00000.bin shard-00000.idx ...   indexed_dataset.h; any names if there is no dataset.json
//   dataset.json                          optional: tokenizer, vocabulary, and per shard counts, sizes and checksums:
//     {"format": "megatron-indexed", "tokenizer": {"name": "bytes", "sha256": "<hex>"}, "vocab_size": 257,
//      "eos_token_id": 256, "dtype": "uint16", "shards": [{"name": "shard-00000", "documents": 1, "tokens": 2,
//      "bin_bytes": 4, "idx_bytes": 54, "bin_xxh3": "<16 lower-case hex digits>", "idx_xxh3": "..."}]}
//     A shard may have "text_bytes": 1, the UTF-8 bytes of its documents' texts, which is 0 only if all documents are
//     empty. The tokenizer may have "unicode": "16.0", the version of the tables that its patterns ran on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "ssa/data/indexed_dataset.h"

namespace ssa {

inline constexpr const char* kDatasetFormat = "megatron-indexed";

/// What ssa_tokenize keeps in its --output directory until all of the dataset is written.
inline constexpr const char* kTokenizeStateName = "job.json";

struct ShardInfo {
  std::string name;
  std::int64_t documents = 0, tokens = 0;
  std::optional<std::int64_t> text_bytes{};  ///< UTF-8 bytes of the documents' texts; datasets may not record them
  std::int64_t bin_bytes = 0, idx_bytes = 0;
  std::string bin_xxh3, idx_xxh3;
};

/// Calls visit(key, value) for each field of a shard, in the order of dataset.json.
template <class Shard, class Visit>
void visit_fields(Shard& shard, const Visit& visit) {
  visit("name", shard.name);
  visit("documents", shard.documents);
  visit("tokens", shard.tokens);
  visit("text_bytes", shard.text_bytes);
  visit("bin_bytes", shard.bin_bytes);
  visit("idx_bytes", shard.idx_bytes);
  visit("bin_xxh3", shard.bin_xxh3);
  visit("idx_xxh3", shard.idx_xxh3);
}

/// The content of dataset.json.
struct DatasetInfo {
  std::string tokenizer_name, tokenizer_sha256;
  std::int64_t vocab_size = 0;
  std::int64_t eos_token_id = 0;
  TokenType dtype = TokenType::uint16;
  std::vector<ShardInfo> shards;
};

/// Throws Error with the file and the key that is missing or wrong.
DatasetInfo read_dataset_info(const std::filesystem::path& json_file);

/// PREFIX, if `path` is PREFIX, PREFIX.idx or PREFIX.bin of an existing PREFIX.idx and no directory.
std::optional<std::filesystem::path> megatron_prefix(const std::filesystem::path& path);

/// The names of the pairs of .bin and .idx in a directory, without the suffix. Throws Error for one without the other.
std::set<std::string> megatron_names(const std::filesystem::path& directory);

class Dataset {
 public:
  /// Opens all shards of a directory, in the order of their names, or the one of a Megatron prefix. Throws Error if
  /// there is no shard, or if a file is damaged or differs from dataset.json in size, counts or element type, and
  /// UsageError if the names in a directory without dataset.json are those of several splits (c4_train_document,
  /// c4_valid_document). Does not read the tokens.
  explicit Dataset(const std::filesystem::path& path);

  const std::filesystem::path& directory() const { return directory_; }
  const std::optional<DatasetInfo>& info() const { return info_; }  ///< from dataset.json, if there is one
  const std::vector<IndexedDataset>& shards() const { return shards_; }
  std::int64_t documents() const;
  std::int64_t tokens() const;
  /// UTF-8 bytes of the texts; nullopt if dataset.json does not record them. A token of the tokenizer `bytes` is one.
  std::optional<std::int64_t> text_bytes() const;

  /// Throws Error if dataset.json states a larger vocabulary than the model's, or another end-of-text id: the dataset
  /// was then made with another tokenizer.
  void check_model(std::int64_t vocab_size, std::int64_t eos_token_id) const;

  /// Reads all data and checks the checksums, that all token ids are within the vocabulary, and that each document ends
  /// with the end-of-text token. Throws Error at the first fault. Without dataset.json, only the ids are checked: that
  /// none is negative, and with `vocab_size` that they are below it.
  void verify(std::optional<std::int64_t> vocab_size = std::nullopt) const;

 private:
  std::filesystem::path directory_;
  std::optional<DatasetInfo> info_;
  std::vector<IndexedDataset> shards_;
};

/// The loss of a dataset in bits per byte of its text, which compares models with different tokenizers: nats per
/// token / ln 2 x tokens / bytes, end-of-text tokens included. nullopt if the dataset does not record its bytes.
std::optional<double> bits_per_byte(const Dataset& dataset, double nats_per_token);

/// Throws Error with shard and document if an id is negative or, with `vocab_size`, not below it. `ids` begins at token
/// `offset` of the document.
void check_token_ids(const IndexedDataset& shard, std::int64_t document, std::int64_t offset,
                     std::span<const std::int32_t> ids, std::optional<std::int64_t> vocab_size);

}  // namespace ssa
