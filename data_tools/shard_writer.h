// Writes the shards of a dataset, one sequence per document. ssa/data/indexed_dataset.h describes the format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ssa/base/file.h"
#include "ssa/data/dataset.h"

namespace ssa {

/// What is needed to continue an interrupted dataset: the finished shards and the length of the open one.
struct WriterState {
  std::vector<ShardInfo> shards;
  std::int64_t open_documents = 0, open_tokens = 0;
  std::optional<std::int64_t> open_text_bytes =
      0;  ///< nullopt if they were not counted from the shard's first document
};

/// While a shard is open, its tokens are in NAME.bin.part and its document lengths in NAME.len.part, so that memory
/// does not grow with the shard. NAME.bin and NAME.idx appear when both are complete and on disk.
class ShardWriter {
 public:
  /// Continues from `state` (default: nothing written) in an existing directory. Removes what was written after it.
  ShardWriter(std::filesystem::path directory, TokenType type, std::int64_t shard_tokens, WriterState state = {});
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  /// Appends one document, of `text_bytes` UTF-8 bytes, to a new shard if the open one has shard_tokens already.
  /// Returns whether a shard ended.
  bool add(std::span<const std::int32_t> ids, std::int64_t text_bytes);

  /// Makes everything added so far durable and returns the state that continues after it. The caller saves that state
  /// before the next call; until it is saved, the previous state still works.
  WriterState checkpoint();

  /// Ends the open shard, if there is one.
  void close();
  /// After close() and a checkpoint() whose state was saved: removes what only an older state needs.
  void clean();

  const std::vector<ShardInfo>& shards() const { return state_.shards; }

 private:
  std::filesystem::path part(const char* suffix) const;
  void open();
  FileChecksum write_index() const;

  std::filesystem::path directory_;
  TokenType type_;
  std::int64_t shard_tokens_;
  WriterState state_;
  std::string name_;  // of the open shard
  std::optional<FileWriter> bin_, lengths_;
  // Length files of the shards that ended since the last checkpoint(), and before it.
  std::vector<std::filesystem::path> ended_, removable_;
};

}  // namespace ssa
