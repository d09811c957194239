// File access with durability and checksums: sync() returns when the data is on the device, and reading and writing can
// return the checksum. Failures throw FileError with the path and the cause.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "ssa/base/checksum.h"
#include "ssa/base/error.h"

namespace ssa {

/// The operating system failed to open, read or write a file.
class FileError : public Error {
 public:
  FileError(const std::string& message, int cause) : Error(message), cause_(cause) {}
  int cause() const { return cause_; }  ///< errno

 private:
  int cause_;
};

/// Size and XXH3-64 of a file's content.
struct FileChecksum {
  std::uint64_t bytes = 0;
  std::string xxh3;  ///< 16 hexadecimal digits
  bool operator==(const FileChecksum&) const = default;
};

/// Whether something has this name, also a symbolic link whose target is missing: to std::filesystem::exists() such a
/// file is absent, and what is optional would be left out in silence. Reading it is an error that names it. Throws
/// FileError if the directory cannot be searched.
bool is_present(const std::filesystem::path& path);

/// Size of a file that opens for reading, in bytes.
std::uint64_t size_of_file(const std::filesystem::path& path);

/// Reads the whole file.
FileChecksum checksum_file(const std::filesystem::path& path);

/// The whole content, as bytes.
std::string read_file(const std::filesystem::path& path);

/// Reads from an open descriptor until `bytes` are read or the file ends; returns the bytes read. `path` is for errors.
std::size_t read_fully(int descriptor, void* out, std::size_t bytes, const std::filesystem::path& path);

/// Calls sink(data, bytes) for each piece of the content: kFilePieceBytes, or fewer for the last one.
void read_pieces(const std::filesystem::path& path, const std::function<void(const char*, std::size_t)>& sink);
inline constexpr std::size_t kFilePieceBytes = std::size_t{1} << 20;

/// Buffered sequential writing with a running checksum. On a full disk the error is "no space left on device: PATH, N
/// bytes written".
class FileWriter {
 public:
  enum class Mode { create, append };  ///< `create` empties a file that exists

  explicit FileWriter(std::filesystem::path path, Mode mode = Mode::create);
  /// Continues a file that an interrupted program left: keeps its first `keep` bytes, which count as written here, and
  /// removes the rest. A shorter file is an error.
  static FileWriter continue_at(std::filesystem::path path, std::uint64_t keep);
  ~FileWriter();  ///< closes and discards buffered data: without finish() the file is incomplete anyway
  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&&) = delete;

  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void flush();  ///< hands the buffer to the operating system: the data survives this process, but not a power failure
  void sync();   ///< flush(), then waits until the device has all data
  /// sync(), closes, and returns checksum().
  FileChecksum finish();

  /// Of everything written until now. In append mode, the earlier content is not included.
  FileChecksum checksum() const { return {bytes_, hash_.hex()}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  FileWriter(std::filesystem::path path, int flags);
  void write_through(const char* data, std::size_t bytes);
  [[noreturn]] void fail_write(const char* what, int error) const;

  std::filesystem::path path_;
  int fd_ = -1;
  std::vector<char> buffer_;
  std::uint64_t bytes_ = 0;    ///< passed to write(), or kept
  std::uint64_t written_ = 0;  ///< accepted by the operating system, or kept
  std::uint64_t started_ = 0;  ///< of these, on their way to the device
  Xxh3 hash_;
};

/// Creates the file, or replaces its content, and waits until the device has all of it. Other than replace_file(), an
/// interruption may leave a part of it.
FileChecksum write_whole_file(const std::filesystem::path& path, std::string_view content);

/// Creates the directory and its parents, as needed.
void make_directories(const std::filesystem::path& path);

/// Renames a file or directory. A power failure may undo it until sync_directory(parent) returns.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);

/// Makes changes to the entries of a directory (creations, renames, removals) survive a power failure.
void sync_directory(const std::filesystem::path& path);

/// Throws Error if something exists at `path` that is neither a regular file nor a character device. Opening a FIFO to
/// write would wait for a reader.
void check_output_file(const std::filesystem::path& path);

/// The same for a file of a directory whose files this project writes: opening a FIFO to read would wait for a writer.
/// A file that the user names may be a FIFO, as in `--config <(program)`.
void check_input_file(const std::filesystem::path& path);

/// What replace_file() writes next to `path` before it renames it. It remains when the program is killed in between.
std::filesystem::path draft_of(const std::filesystem::path& path);

/// Throws Error if replace_file() could not write `path`, for output that takes long to compute. Changes nothing.
void check_replaceable(const std::filesystem::path& path);

/// Replaces the content of a small file atomically: even after a power failure the file has the old or the new content.
/// A symbolic link remains; the file that it names is replaced. To a character device, such as /dev/null or a terminal,
/// the content is written.
void replace_file(const std::filesystem::path& path, std::string_view content);

}  // namespace ssa
