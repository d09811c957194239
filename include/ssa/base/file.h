// Files as training needs them: every error names the path and the cause, what was written is on the disk when it is
// said to be, and what was read or written comes with its checksum. Failures throw ssa::Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "ssa/base/checksum.h"

namespace ssa {

/// Size and XXH3-64 of a file's content.
struct FileChecksum {
  std::uint64_t bytes = 0;
  std::string xxh3;  ///< 16 hexadecimal digits
  bool operator==(const FileChecksum&) const = default;
};

/// Reads the file once in pieces.
FileChecksum checksum_file(const std::filesystem::path& path);

std::string read_file(const std::filesystem::path& path);

/// Buffered sequential writing. A full disk reads "no space left on device: PATH, N bytes written".
class FileWriter {
 public:
  enum class Mode { create, append };  ///< `create` empties a file that exists

  explicit FileWriter(std::filesystem::path path, Mode mode = Mode::create);
  ~FileWriter();  ///< closes without writing what is still buffered: a writer that did not finish has failed
  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&&) = delete;

  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void flush();  ///< hands the buffer to the operating system: the bytes survive this process, not a power cut
  /// Flushes, waits until the device has everything, closes. Sums what this writer wrote.
  FileChecksum finish();
  const std::filesystem::path& path() const { return path_; }

 private:
  void write_through(const char* data, std::size_t bytes);
  [[noreturn]] void fail_write(const char* what, int error) const;

  std::filesystem::path path_;
  int fd_ = -1;
  std::vector<char> buffer_;
  std::uint64_t bytes_ = 0;    ///< given to write()
  std::uint64_t written_ = 0;  ///< taken by the operating system
  Xxh3 hash_;
};

/// Creates the directory and its parents; one that exists is fine.
void make_directories(const std::filesystem::path& path);

/// Renames a file or directory. Lasts through a power cut only after sync_directory of the parent.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);

/// Makes the entries of a directory (creations, renames, removals) last through a power cut.
void sync_directory(const std::filesystem::path& path);

/// Replaces the content of a small file: at any moment, also after a power cut, the old or the new content is there.
void replace_file(const std::filesystem::path& path, std::string_view content);

}  // namespace ssa
