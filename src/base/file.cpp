#include "ssa/base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "ssa/base/fault.h"
#include "ssa/base/signals.h"

namespace ssa {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;  // buffered by a FileWriter
constexpr std::size_t kStartBytes = std::size_t{32} << 20;  // after which the system starts to write, before sync()

[[noreturn]] void fail_file(const std::filesystem::path& path, const char* what, int error) {
  throw FileError(concat(shown(path.string()), ": cannot ", what, ": ", std::strerror(error)), error);
}

/// Closes on scope exit; for files that are only read, where close has nothing to report. Of a FIFO, neither open() nor
/// read() waits: a signal must be able to end the wait for a writer.
struct ReadHandle {
  explicit ReadHandle(const std::filesystem::path& path) : fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (fd < 0) fail_file(path, "open", errno);
    struct stat info {};
    if (::fstat(fd, &info) != 0 || S_ISDIR(info.st_mode)) {
      const int error = S_ISDIR(info.st_mode) ? EISDIR : errno;
      ::close(fd);
      fail_file(path, "read", error);
    }
    if (!S_ISFIFO(info.st_mode)) return;
    try {
      wait_for_input(fd);  // read() would report the end before the first writer
    } catch (...) {
      ::close(fd);
      throw;
    }
  }
  ~ReadHandle() { ::close(fd); }
  ReadHandle(const ReadHandle&) = delete;
  ReadHandle& operator=(const ReadHandle&) = delete;

  int fd;
};

/// "FIFO", "socket" or "block device"; null for any other file, also one that is not there.
const char* special_kind(const std::filesystem::path& path) {
  std::error_code error;
  switch (std::filesystem::status(path, error).type()) {
    case std::filesystem::file_type::fifo: return "FIFO";
    case std::filesystem::file_type::socket: return "socket";
    case std::filesystem::file_type::block: return "block device";
    default: return nullptr;
  }
}

std::filesystem::path parent_of(const std::filesystem::path& path) {
  const auto parent = path.parent_path();
  return parent.empty() ? "." : parent;
}

}  // namespace

bool is_present(const std::filesystem::path& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) == 0) return true;
  if (errno != ENOENT && errno != ENOTDIR) fail_file(path, "open", errno);
  return false;
}

std::size_t read_fully(int descriptor, void* out, std::size_t bytes, const std::filesystem::path& path) {
  if (fault_hits(FaultOperation::read)) fail_file(path, "read", EIO);
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t got = ::read(descriptor, static_cast<char*>(out) + done, bytes - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) {
      wait_for_input(descriptor);
      continue;
    }
    if (got < 0) fail_file(path, "read", errno);
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return done;
}

void read_pieces(const std::filesystem::path& path, const std::function<void(const char*, std::size_t)>& sink) {
  const ReadHandle file(path);
  std::vector<char> buffer(kFilePieceBytes);
  while (const std::size_t got = read_fully(file.fd, buffer.data(), buffer.size(), path)) sink(buffer.data(), got);
}

std::uint64_t size_of_file(const std::filesystem::path& path) {
  const ReadHandle file(path);
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) fail_file(path, "read", errno);
  return static_cast<std::uint64_t>(info.st_size);
}

FileChecksum checksum_file(const std::filesystem::path& path) {
  Xxh3 hash;
  FileChecksum checksum;
  read_pieces(path, [&](const char* data, std::size_t bytes) {
    hash.update(data, bytes);
    checksum.bytes += bytes;
  });
  checksum.xxh3 = hash.hex();
  return checksum;
}

std::string read_file(const std::filesystem::path& path) {
  std::string content;
  read_pieces(path, [&](const char* data, std::size_t bytes) { content.append(data, bytes); });
  return content;
}

FileWriter::FileWriter(std::filesystem::path path, int flags) : path_(std::move(path)) {
  check_output_file(path_);
  fd_ = ::open(path_.c_str(), flags | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_write("create", errno);
  buffer_.reserve(kBufferBytes);
}

FileWriter::FileWriter(std::filesystem::path path, Mode mode)
    : FileWriter(std::move(path), O_WRONLY | (mode == Mode::append ? O_APPEND : O_TRUNC)) {}

FileWriter FileWriter::continue_at(std::filesystem::path path, std::uint64_t keep) {
  FileWriter writer(std::move(path), O_RDWR);
  const off_t size = ::lseek(writer.fd_, 0, SEEK_END);
  if (size < 0) fail_file(writer.path_, "seek", errno);
  SSA_CHECK(static_cast<std::uint64_t>(size) >= keep, writer.path_.string(), ": ", size, " bytes, expected at least ",
            keep, " to continue from");
  if (::ftruncate(writer.fd_, static_cast<off_t>(keep)) != 0) fail_file(writer.path_, "truncate", errno);
  if (::lseek(writer.fd_, 0, SEEK_SET) < 0) fail_file(writer.path_, "seek", errno);
  std::vector<char> piece(kFilePieceBytes);
  while (const std::size_t got = read_fully(writer.fd_, piece.data(), piece.size(), writer.path_))
    writer.hash_.update(piece.data(), got);
  writer.bytes_ = writer.written_ = writer.started_ = keep;
  return writer;
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
}

FileWriter::FileWriter(FileWriter&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      buffer_(std::move(other.buffer_)),
      bytes_(other.bytes_),
      written_(other.written_),
      started_(other.started_),
      hash_(std::move(other.hash_)) {}

void FileWriter::fail_write(const char* what, int error) const {
  if (error == ENOSPC) fail("no space left on device: ", path_.string(), ", ", written_, " bytes written");
  fail(path_.string(), ": cannot ", what, ": ", std::strerror(error), ", ", written_, " bytes written");
}

void FileWriter::write(const void* data, std::size_t bytes) {
  SSA_CHECK(fd_ >= 0, path_.string(), ": written to after it was closed");
  hash_.update(data, bytes);
  bytes_ += bytes;
  if (buffer_.size() + bytes > kBufferBytes) flush();
  if (bytes >= kBufferBytes)
    write_through(static_cast<const char*>(data), bytes);
  else
    buffer_.insert(buffer_.end(), static_cast<const char*>(data), static_cast<const char*>(data) + bytes);
}

void FileWriter::flush() {
  write_through(buffer_.data(), buffer_.size());
  buffer_.clear();
}

void FileWriter::write_through(const char* data, std::size_t bytes) {
  if (fault_hits(FaultOperation::write)) fail_write("write", ENOSPC);
  while (bytes > 0) {
    const ssize_t taken = ::write(fd_, data, bytes);
    if (taken < 0 && errno == EINTR) continue;
    if (taken < 0) fail_write("write", errno);
    data += taken;
    bytes -= static_cast<std::size_t>(taken);
    written_ += static_cast<std::uint64_t>(taken);
  }
  if (written_ - started_ >= kStartBytes) {
    // Whole file: pages that are on their way already are left out. Where a file system cannot do it, sync() does all.
    ::sync_file_range(fd_, 0, 0, SYNC_FILE_RANGE_WRITE);
    started_ = written_;
  }
}

void FileWriter::sync() {
  flush();
  fault_hits(FaultOperation::sync);
  if (::fsync(fd_) != 0) fail_write("sync", errno);
}

FileChecksum FileWriter::finish() {
  SSA_CHECK(fd_ >= 0, path_.string(), ": finished after it was closed");
  sync();
  // Network file systems report a full disk or quota only here.
  if (::close(std::exchange(fd_, -1)) != 0) fail_write("close", errno);
  fault_closed(path_);
  return checksum();
}

FileChecksum write_whole_file(const std::filesystem::path& path, std::string_view content) {
  FileWriter writer(path);
  writer.write(content);
  return writer.finish();
}

void check_output_file(const std::filesystem::path& path) {
  const char* kind = special_kind(path);
  SSA_CHECK(!kind, path.string(), ": cannot write: is a ", kind, ", expected a regular file");
}

void check_input_file(const std::filesystem::path& path) {
  const char* kind = special_kind(path);
  SSA_CHECK(!kind, path.string(), ": cannot read: is a ", kind, ", expected a regular file");
}

void make_directories(const std::filesystem::path& path) {
  fault_hits(FaultOperation::change_directory);
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail_file(path, "create the directory", error.value());
}

void rename_path(const std::filesystem::path& from, const std::filesystem::path& to) {
  fault_hits(FaultOperation::change_directory);
  if (std::rename(from.c_str(), to.c_str()) != 0)
    fail(from.string(), ": cannot rename to ", to.string(), ": ", std::strerror(errno));
}

void sync_directory(const std::filesystem::path& path) {
  fault_hits(FaultOperation::change_directory);
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_file(path, "open", errno);
  // Some network file systems cannot sync a directory; they order its entries themselves.
  const int error = ::fsync(fd) == 0 || errno == EINVAL ? 0 : errno;
  ::close(fd);
  if (error != 0) fail_file(path, "sync the directory", error);
}

namespace {

/// The file at the end of the symbolic links.
std::filesystem::path linked_file(std::filesystem::path path) {
  constexpr int kMostLinks = 40;  // as in the kernel
  std::error_code none;
  for (int i = 0; i < kMostLinks && std::filesystem::is_symlink(path, none); ++i)
    path = parent_of(path) / std::filesystem::read_symlink(path);
  return path;
}

/// A terminal, /dev/null: a rename would put a file in the place of the device.
bool is_device(const std::filesystem::path& path) {
  std::error_code none;
  return std::filesystem::is_character_file(path, none);
}

}  // namespace

std::filesystem::path draft_of(const std::filesystem::path& path) {
  return parent_of(path) / fmt::format(".{}.tmp", path.filename().string());
}

void check_replaceable(const std::filesystem::path& path) {
  check_output_file(path);
  std::error_code error;
  SSA_CHECK(!std::filesystem::is_directory(path, error), path.string(), ": a directory, expected a file");
  if (is_device(path)) return;
  const std::filesystem::path draft = draft_of(linked_file(path));
  FileWriter(draft).flush();
  std::filesystem::remove(draft, error);
}

void replace_file(const std::filesystem::path& given, std::string_view content) {
  check_output_file(given);
  if (is_device(given)) {
    FileWriter device(given);
    device.write(content);
    return device.flush();
  }
  const std::filesystem::path path = linked_file(given), draft = draft_of(path);
  try {
    write_whole_file(draft, content);
    rename_path(draft, path);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(draft, ignored);
    throw;
  }
  sync_directory(parent_of(path));
}

}  // namespace ssa
