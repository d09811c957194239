// Writes the shards of a dataset (DESIGN 2.4) in Megatron-LM's indexed format: shard-NNNNN.bin holds the token ids of
// all documents end to end; shard-NNNNN.idx is
//   "MMIDIDX\0\0"  u64 version = 1  u8 type (8 = uint16, 4 = int32)  u64 sequences  u64 documents + 1
//   i32 length[sequences] in tokens   i64 pointer[sequences] in bytes   i64 document[documents + 1] = 0, 1, ...,
//   documents
// all little-endian, one sequence a document. (NVIDIA Megatron-LM, megatron/core/datasets/indexed_dataset.py.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace ssa {

enum class TokenType : std::uint8_t { uint16 = 8, int32 = 4 };  // the codes of the .idx file

struct ShardInfo {
  std::string name;
  std::uint64_t documents = 0, tokens = 0;
  std::uint64_t bin_bytes = 0, idx_bytes = 0;
  std::string bin_xxh3, idx_xxh3;  // 16 lower-case hex digits of XXH3-64
};

/// All there is to know to continue an interrupted dataset: the finished shards, and how far the open one had come.
struct WriterState {
  std::vector<ShardInfo> shards;
  std::uint64_t open_documents = 0, open_tokens = 0;
};

/// While a shard is open its tokens stand in NAME.bin.part and its document lengths in NAME.len.part, so that memory
/// does not grow with the shard. Renamed to .bin and .idx when both are whole and on the disk.
class ShardWriter {
 public:
  /// Continues from `state` (default: from nothing) in an existing folder; what lies beyond `state` is removed.
  ShardWriter(std::filesystem::path folder, TokenType type, std::uint64_t shard_tokens, WriterState state = {});
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  /// Appends one document, in a new shard if the open one holds shard_tokens already. Returns whether a shard ended.
  bool add(std::span<const std::int32_t> ids);

  /// Everything added so far is on the disk and the returned state continues behind it. The caller keeps that state
  /// durably before the next call: until then the state before it still works.
  WriterState checkpoint();

  /// Ends the open shard, if it holds anything, and returns all shards.
  std::vector<ShardInfo> finish();

 private:
  class File;

  std::filesystem::path part(const char* suffix) const;
  void open();
  void close_shard();

  std::filesystem::path folder_;
  TokenType type_;
  std::uint64_t shard_tokens_;
  WriterState state_;
  std::string name_;  // of the open shard
  std::unique_ptr<File> bin_, lengths_;
  std::vector<std::filesystem::path> ended_,
      removable_;  // length files of shards ended since, and before, checkpoint()
};

/// Writes `text` to `path` so that after a crash the file is either the old or the new one, whole.
void write_file_atomically(const std::filesystem::path& path, const std::string& text);

/// Makes the names in a folder (creations, renames) durable.
void sync_folder(const std::filesystem::path& folder);

}  // namespace ssa
