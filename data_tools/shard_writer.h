// Writes the shards of a dataset (ssa/data/indexed_dataset.h has the format), one sequence a document.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data_tools/growing_file.h"
#include "ssa/data/dataset.h"

namespace ssa {

/// All there is to know to continue an interrupted dataset: the finished shards, and how far the open one had come.
struct WriterState {
  std::vector<ShardInfo> shards;
  std::int64_t open_documents = 0, open_tokens = 0;
};

/// While a shard is open its tokens stand in NAME.bin.part and its document lengths in NAME.len.part, so that memory
/// does not grow with the shard. Renamed to .bin and .idx when both are whole and on the disk.
class ShardWriter {
 public:
  /// Continues from `state` (default: from nothing) in an existing directory; what lies beyond `state` is removed.
  ShardWriter(std::filesystem::path directory, TokenType type, std::int64_t shard_tokens, WriterState state = {});
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  /// Appends one document, in a new shard if the open one holds shard_tokens already. Returns whether a shard ended.
  bool add(std::span<const std::int32_t> ids);

  /// Everything added so far is on the disk and the returned state continues behind it. The caller keeps that state
  /// durably before the next call: until then the state before it still works.
  WriterState checkpoint();

  /// Ends the open shard, if it holds anything.
  void close();
  /// After close() and a checkpoint() whose state is kept: removes what only an older state would need.
  void clean();

  const std::vector<ShardInfo>& shards() const { return state_.shards; }

 private:
  std::filesystem::path part(const char* suffix) const;
  void open();

  std::filesystem::path directory_;
  TokenType type_;
  std::int64_t shard_tokens_;
  WriterState state_;
  std::string name_;  // of the open shard
  std::unique_ptr<GrowingFile> bin_, lengths_;
  std::vector<std::filesystem::path> ended_,
      removable_;  // length files of shards ended since, and before, checkpoint()
};

}  // namespace ssa
