#include "data_tools/shard_writer.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

#include "ssa/base/error.h"

namespace ssa {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kBufferBytes = 1 << 20;

std::string hex16(std::uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

std::string shard_name(std::size_t index) {
  char text[32];
  std::snprintf(text, sizeof text, "shard-%05zu", index);
  return text;
}

[[noreturn]] void fail_errno(const fs::path& path, const char* action) {
  const std::string reason = std::generic_category().message(errno);
  fail(path.string(), ": cannot ", action, ": ", reason);
}

}  // namespace

/// A file being written: buffered, hashed as it grows.
class ShardWriter::File {
 public:
  /// Opens `path` and keeps its first `keep` bytes.
  File(fs::path path, std::uint64_t keep, bool hashed)
      : path_(std::move(path)), hash_(hashed ? XXH3_createState() : nullptr) {
    if (hash_) XXH3_64bits_reset(hash_);
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd_ < 0) fail_errno(path_, "create");
    const off_t size = ::lseek(fd_, 0, SEEK_END);
    if (size < 0 || static_cast<std::uint64_t>(size) < keep)
      fail(path_.string(), ": ", size, " bytes, expected at least the ", keep, " of the interrupted job");
    if (::ftruncate(fd_, static_cast<off_t>(keep)) != 0) fail_errno(path_, "truncate");
    buffer_.reserve(kBufferBytes);
    rewind();
    if (hash_) {
      char block[1 << 16];
      while (const std::size_t got = read(block, sizeof block)) XXH3_64bits_update(hash_, block, got);
    }
    if (::lseek(fd_, 0, SEEK_END) < 0) fail_errno(path_, "seek");
    bytes_ = keep;
  }
  ~File() {
    if (fd_ >= 0) ::close(fd_);
    XXH3_freeState(hash_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  void write(const void* data, std::size_t size) {
    const auto* bytes = static_cast<const char*>(data);
    bytes_ += size;
    while (size > 0) {
      const std::size_t take = std::min(size, kBufferBytes - buffer_.size());
      buffer_.insert(buffer_.end(), bytes, bytes + take);
      bytes += take;
      size -= take;
      if (buffer_.size() == kBufferBytes) flush();
    }
  }

  void flush() {
    if (hash_) XXH3_64bits_update(hash_, buffer_.data(), buffer_.size());
    std::size_t done = 0;
    while (done < buffer_.size()) {
      const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_errno(path_, "write");
      done += static_cast<std::size_t>(n);
    }
    buffer_.clear();
  }

  void sync() {
    flush();
    if (::fsync(fd_) != 0) fail_errno(path_, "sync");
  }

  /// Reading starts at the first byte again; everything written must have been flushed.
  void rewind() {
    if (::lseek(fd_, 0, SEEK_SET) < 0) fail_errno(path_, "seek");
  }

  std::size_t read(void* out, std::size_t size) {
    while (true) {
      const ssize_t n = ::read(fd_, out, size);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_errno(path_, "read");
      return static_cast<std::size_t>(n);
    }
  }

  std::uint64_t bytes() const { return bytes_; }
  std::string xxh3() const { return hex16(XXH3_64bits_digest(hash_)); }

 private:
  fs::path path_;
  XXH3_state_t* hash_;
  int fd_ = -1;
  std::vector<char> buffer_;
  std::uint64_t bytes_ = 0;
};

ShardWriter::ShardWriter(fs::path folder, TokenType type, std::uint64_t shard_tokens, WriterState state)
    : folder_(std::move(folder)), type_(type), shard_tokens_(shard_tokens), state_(std::move(state)) {
  // A crash may have come between the end of a shard and the state that says so: then the shard is opened again.
  const std::size_t next = state_.shards.size();
  for (const auto& entry : fs::directory_iterator(folder_)) {
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

fs::path ShardWriter::part(const char* suffix) const { return folder_ / (name_ + suffix); }

void ShardWriter::open() {
  name_ = shard_name(state_.shards.size());
  const std::uint64_t token_bytes = type_ == TokenType::uint16 ? 2 : 4;
  bin_ = std::make_unique<File>(part(".bin.part"), state_.open_tokens * token_bytes, true);
  lengths_ = std::make_unique<File>(part(".len.part"), state_.open_documents * sizeof(std::int32_t), false);
}

bool ShardWriter::add(std::span<const std::int32_t> ids) {
  const bool full = bin_ && state_.open_tokens >= shard_tokens_;
  if (full) close_shard();
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
  state_.open_tokens += ids.size();
  return full;
}

WriterState ShardWriter::checkpoint() {
  for (const fs::path& path : removable_) fs::remove(path);
  removable_ = std::exchange(ended_, {});
  if (bin_) {
    bin_->sync();
    lengths_->sync();
    sync_folder(folder_);
  }
  return state_;
}

void ShardWriter::close_shard() {
  bin_->sync();
  lengths_->flush();
  ShardInfo info{.name = name_,
                 .documents = state_.open_documents,
                 .tokens = state_.open_tokens,
                 .bin_bytes = bin_->bytes(),
                 .bin_xxh3 = bin_->xxh3(),
                 .idx_xxh3 = {}};
  {
    File idx(part(".idx.part"), 0, true);
    const std::uint64_t version = 1, sequences = info.documents, documents = info.documents + 1;
    idx.write("MMIDIDX\0\0", 9);
    idx.write(&version, 8);
    idx.write(&type_, 1);
    idx.write(&sequences, 8);
    idx.write(&documents, 8);
    std::vector<std::int32_t> lengths(1 << 14);
    const auto each_block = [&](auto&& use) {
      lengths_->rewind();
      while (const std::size_t got = lengths_->read(lengths.data(), lengths.size() * sizeof(std::int32_t)))
        use(got / sizeof(std::int32_t));
    };
    each_block([&](std::size_t count) { idx.write(lengths.data(), count * sizeof(std::int32_t)); });
    const std::int64_t token_bytes = type_ == TokenType::uint16 ? 2 : 4;
    std::int64_t pointer = 0;
    each_block([&](std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) {
        idx.write(&pointer, 8);
        pointer += lengths[i] * token_bytes;
      }
    });
    for (std::uint64_t i = 0; i < documents; ++i) idx.write(&i, 8);
    idx.sync();
    info.idx_bytes = idx.bytes();
    info.idx_xxh3 = idx.xxh3();
  }
  fs::rename(part(".bin.part"), part(".bin"));
  fs::rename(part(".idx.part"), part(".idx"));
  sync_folder(folder_);
  bin_.reset();
  lengths_.reset();
  ended_.push_back(part(".len.part"));  // with its lengths an older state can still open this shard again
  state_.shards.push_back(std::move(info));
  state_.open_documents = state_.open_tokens = 0;
}

std::vector<ShardInfo> ShardWriter::finish() {
  if (bin_) close_shard();
  for (const auto& entry : fs::directory_iterator(folder_))
    if (entry.path().filename().string().ends_with(".len.part")) fs::remove(entry.path());
  return state_.shards;
}

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_errno(folder, "open");
  const int result = ::fsync(fd);
  ::close(fd);
  if (result != 0 && errno != EINVAL) fail_errno(folder, "sync");
}

void write_file_atomically(const fs::path& path, const std::string& text) {
  const fs::path temporary = path.string() + ".part";
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) fail_errno(temporary, "create");
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      ::close(fd);
      fail_errno(temporary, "write");
    }
    done += static_cast<std::size_t>(n);
  }
  const int result = ::fsync(fd);
  ::close(fd);
  if (result != 0) fail_errno(temporary, "sync");
  fs::rename(temporary, path);
  sync_folder(path.parent_path());
}

}  // namespace ssa
