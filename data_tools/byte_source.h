// The bytes of one input file, decompressed. Own code: it is two short loops over zlib and zstd, and libarchive would
// be one more dependency.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "data_tools/interrupt.h"
#include "ssa/base/descriptor.h"

namespace ssa {

/// What tells one version of a file from another.
struct FileVersion {
  std::uint64_t bytes = 0;       // on disk
  std::int64_t seconds = 0;      // since 1970, when its content was last written
  std::int64_t nanoseconds = 0;  // after these seconds
  bool operator==(const FileVersion&) const = default;
};

/// "7 bytes written at 2026-11-29 01:02:03.000000004 UTC".
std::string to_string(const FileVersion& version);

/// The version of an input file; nullopt for "-" and for a FIFO. Throws Error for a file that cannot be looked at.
std::optional<FileVersion> input_version(const std::filesystem::path& path);

/// "regular file", "directory", "FIFO" and so on.
const char* file_type_name(std::filesystem::file_type type);

/// Reads a file, or standard input for "-". gzip and Zstandard are recognized by their first bytes, not by the name;
/// consecutive members or frames are one stream, without the frames that Zstandard skips. Every member that reads
/// throws Interrupted once `interrupt` is raised.
class ByteSource {
 public:
  explicit ByteSource(std::filesystem::path path, const Interrupt* interrupt = nullptr);
  ~ByteSource();
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  /// Up to `size` decompressed bytes; 0 at the end. Throws Error when the file cannot be read, is damaged or truncated.
  std::size_t read(char* out, std::size_t size);

  /// Appends `count` decompressed bytes to `bytes`, fewer at the end. False once the end is reached. When it throws as
  /// read() does, the bytes before the damage have been appended.
  bool read_fully(std::string& bytes, std::size_t count);

  /// The same, but once there is something it does not wait for more from an idle pipe: it returns true.
  bool read_until_idle(std::string& bytes, std::size_t count);

  /// Skips `count` decompressed bytes. Throws Error if the stream is shorter.
  void skip(std::uint64_t count);

  /// The version of the file that is open; nullopt for "-" and for a FIFO.
  std::optional<FileVersion> version() const;

  /// Bytes read from the file, before decompression.
  std::uint64_t file_bytes_read() const { return file_bytes_; }

 private:
  struct Decoder;

  std::size_t read_file(char* out, std::size_t size);
  bool read_into(std::string& bytes, std::size_t count, bool until_idle);
  void fill();

  std::filesystem::path path_;
  const Interrupt* interrupt_;
  Descriptor fd_;
  std::uint64_t file_bytes_ = 0;
  std::unique_ptr<char[]> buffer_;  // bytes of the file that are not decoded yet: [begin_, end_)
  std::size_t begin_ = 0, end_ = 0;
  std::unique_ptr<Decoder> decoder_;  // null: the file is not compressed
};

}  // namespace ssa
