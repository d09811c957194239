// A file that is appended to over several runs of a program: each run continues at a length that the last one recorded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "ssa/base/checksum.h"

namespace ssa {

class GrowingFile {
 public:
  /// Opens or creates `path` and keeps its first `keep` bytes, which are hashed again if `hashed`.
  GrowingFile(std::filesystem::path path, std::uint64_t keep, bool hashed);
  ~GrowingFile();
  GrowingFile(const GrowingFile&) = delete;
  GrowingFile& operator=(const GrowingFile&) = delete;

  void write(const void* data, std::size_t size);
  /// Everything written so far is on the disk.
  void sync();
  /// Hands the buffer to the operating system and goes to the first byte, for read(); no write() after it.
  void rewind();
  std::size_t read(void* out, std::size_t size);

  std::uint64_t bytes() const { return bytes_; }
  /// XXH3-64 of all bytes; call sync() before.
  std::string xxh3() const { return hash_->hex(); }

 private:
  void flush();

  std::filesystem::path path_;
  std::optional<Xxh3> hash_;
  int fd_ = -1;
  std::vector<char> buffer_;
  std::uint64_t bytes_ = 0;
};

}  // namespace ssa
