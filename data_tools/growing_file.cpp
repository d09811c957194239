#include "data_tools/growing_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "ssa/base/error.h"

namespace ssa {
namespace {

constexpr std::size_t kBufferBytes = 1 << 20;

[[noreturn]] void fail_errno(const std::filesystem::path& path, const char* action) {
  const std::string reason = std::generic_category().message(errno);
  fail(path.string(), ": cannot ", action, ": ", reason);
}

}  // namespace

GrowingFile::GrowingFile(std::filesystem::path path, std::uint64_t keep, bool hashed) : path_(std::move(path)) {
  if (hashed) hash_.emplace();
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_errno(path_, "create");
  const off_t size = ::lseek(fd_, 0, SEEK_END);
  if (size < 0 || static_cast<std::uint64_t>(size) < keep)
    fail(path_.string(), ": ", size, " bytes, expected at least the ", keep, " of the interrupted job");
  if (::ftruncate(fd_, static_cast<off_t>(keep)) != 0) fail_errno(path_, "truncate");
  buffer_.reserve(kBufferBytes);
  bytes_ = keep;
  if (hash_ && keep > 0) {
    rewind();
    std::vector<char> block(kBufferBytes);
    while (const std::size_t got = read(block.data(), block.size())) hash_->update(block.data(), got);
  }
  if (::lseek(fd_, 0, SEEK_END) < 0) fail_errno(path_, "seek");
}

GrowingFile::~GrowingFile() {
  if (fd_ >= 0) ::close(fd_);
}

void GrowingFile::write(const void* data, std::size_t size) {
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

void GrowingFile::flush() {
  if (hash_) hash_->update(buffer_.data(), buffer_.size());
  std::size_t done = 0;
  while (done < buffer_.size()) {
    const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(path_, "write");
    done += static_cast<std::size_t>(n);
  }
  buffer_.clear();
}

void GrowingFile::sync() {
  flush();
  if (::fsync(fd_) != 0) fail_errno(path_, "sync");
}

void GrowingFile::rewind() {
  flush();
  if (::lseek(fd_, 0, SEEK_SET) < 0) fail_errno(path_, "seek");
}

std::size_t GrowingFile::read(void* out, std::size_t size) {
  while (true) {
    const ssize_t n = ::read(fd_, out, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(path_, "read");
    return static_cast<std::size_t>(n);
  }
}

}  // namespace ssa
