// MappedFile: a whole file mapped read-only into memory. Pages are read on first access and dropped under memory
// pressure.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace ssa {

class MappedFile {
 public:
  MappedFile() = default;
  /// Throws Error with the path and the system's reason if it cannot be opened. An empty file gives an empty span.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  /// The path of the file that is mapped at this address; null if there is none. Async-signal-safe, for a SIGBUS
  /// handler.
  static const char* path_at(const void* address) noexcept;

  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  int slot_ = -1;  ///< in the table that path_at reads; -1: none
};

}  // namespace ssa
