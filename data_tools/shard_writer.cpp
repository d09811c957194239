#include "data_tools/shard_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "ssa/base/error.h"
#include "ssa/base/file.h"

namespace ssa {
namespace fs = std::filesystem;
namespace {

std::string shard_name(std::size_t index) { return fmt::format("shard-{:05}", index); }

}  // namespace

ShardWriter::ShardWriter(fs::path directory, TokenType type, std::int64_t shard_tokens, WriterState state)
    : directory_(std::move(directory)), type_(type), shard_tokens_(shard_tokens), state_(std::move(state)) {
  // After a crash between the end of a shard and the state that records it, the shard is opened again.
  const std::size_t next = state_.shards.size();
  for (const auto& entry : fs::directory_iterator(directory_)) {
    const std::string file = entry.path().filename().string();
    if (file.rfind("shard-", 0) != 0) continue;
    const std::string shard = file.substr(0, file.find('.'));
    const bool finished = std::any_of(state_.shards.begin(), state_.shards.end(),
                                      [&](const ShardInfo& info) { return info.name == shard; });
    const bool is_open = shard == shard_name(next) && state_.open_documents > 0;
    const bool whole = file.ends_with(".bin") || file.ends_with(".idx");
    if (finished ? whole : is_open && (file.ends_with(".bin.part") || file.ends_with(".len.part"))) continue;
    if (is_open && file.ends_with(".bin"))
      fs::rename(entry.path(), entry.path().string() + ".part");
    else
      fs::remove(entry.path());
  }
  if (state_.open_documents > 0) open();
}

ShardWriter::~ShardWriter() = default;

fs::path ShardWriter::part(const char* suffix) const { return directory_ / (name_ + suffix); }

void ShardWriter::open() {
  name_ = shard_name(state_.shards.size());
  bin_.emplace(
      FileWriter::continue_at(part(".bin.part"), static_cast<std::uint64_t>(state_.open_tokens) * size_of(type_)));
  lengths_.emplace(FileWriter::continue_at(part(".len.part"),
                                           static_cast<std::uint64_t>(state_.open_documents) * sizeof(std::int32_t)));
}

bool ShardWriter::add(std::span<const std::int32_t> ids, std::int64_t text_bytes) {
  const bool full = bin_ && state_.open_tokens >= shard_tokens_;
  if (full) close();
  if (!bin_) open();
  const auto length = static_cast<std::int32_t>(ids.size());
  if (type_ == TokenType::int32) {
    bin_->write(ids.data(), ids.size_bytes());
  } else {
    std::uint16_t block[4096];
    for (std::size_t start = 0; start < ids.size(); start += 4096) {
      const std::size_t count = std::min<std::size_t>(4096, ids.size() - start);
      for (std::size_t i = 0; i < count; ++i) block[i] = static_cast<std::uint16_t>(ids[start + i]);
      bin_->write(block, count * sizeof(std::uint16_t));
    }
  }
  lengths_->write(&length, sizeof length);
  state_.open_documents += 1;
  state_.open_tokens += static_cast<std::int64_t>(ids.size());
  if (state_.open_text_bytes) *state_.open_text_bytes += text_bytes;
  return full;
}

WriterState ShardWriter::checkpoint() {
  for (const fs::path& path : removable_) fs::remove(path);
  removable_ = std::exchange(ended_, {});
  if (bin_) {
    bin_->sync();
    lengths_->sync();
    sync_directory(directory_);
  }
  return state_;
}

FileChecksum ShardWriter::write_index() const {
  FileWriter idx(part(".idx.part"));
  const std::int64_t sequences = state_.open_documents, documents = sequences + 1;
  idx.write(kIdxMagic.data(), kIdxMagic.size());
  idx.write(&kIdxVersion, 8);
  idx.write(&type_, 1);
  idx.write(&sequences, 8);
  idx.write(&documents, 8);
  // The lengths of the documents, then the positions that follow from them. Both pass over the file, so that memory
  // does not grow with the shard.
  read_pieces(part(".len.part"), [&](const char* data, std::size_t bytes) { idx.write(data, bytes); });
  std::int64_t pointer = 0;
  read_pieces(part(".len.part"), [&](const char* data, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += sizeof(std::int32_t)) {
      std::int32_t length = 0;
      std::memcpy(&length, data + at, sizeof length);
      idx.write(&pointer, 8);
      pointer += length * static_cast<std::int64_t>(size_of(type_));
    }
  });
  for (std::int64_t i = 0; i < documents; ++i) idx.write(&i, 8);
  return idx.finish();
}

void ShardWriter::close() {
  if (!bin_) return;
  const FileChecksum bin = bin_->finish();
  lengths_->flush();
  const FileChecksum idx = write_index();
  rename_path(part(".bin.part"), part(".bin"));
  rename_path(part(".idx.part"), part(".idx"));
  sync_directory(directory_);
  bin_.reset();
  lengths_.reset();
  ended_.push_back(part(".len.part"));  // with the lengths, an older state can open this shard again
  state_.shards.push_back({.name = name_,
                           .documents = state_.open_documents,
                           .tokens = state_.open_tokens,
                           .text_bytes = state_.open_text_bytes,
                           .bin_bytes = static_cast<std::int64_t>(bin.bytes),
                           .idx_bytes = static_cast<std::int64_t>(idx.bytes),
                           .bin_xxh3 = bin.xxh3,
                           .idx_xxh3 = idx.xxh3});
  state_.open_documents = state_.open_tokens = 0;
  state_.open_text_bytes = 0;
}

void ShardWriter::clean() {
  for (const fs::path& path : removable_) fs::remove(path);
  for (const fs::path& path : ended_) fs::remove(path);
  removable_.clear();
  ended_.clear();
}

}  // namespace ssa
