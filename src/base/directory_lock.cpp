#include "ssa/base/directory_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <thread>
#include <utility>

#include "ssa/base/error.h"

namespace ssa {
namespace {

/// "host gpu7, process 4711, since 2026-11-27 09:30:00 UTC"
std::string own_name() {
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char time[32];
  std::strftime(time, sizeof time, "%Y-%m-%d %H:%M:%S UTC", &utc);
  return concat("host ", host, ", process ", ::getpid(), ", since ", time);
}

std::string first_line(int file) {
  char text[512];
  const ssize_t bytes = ::pread(file, text, sizeof text, 0);
  const std::string line(text, bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
  const std::string name = line.substr(0, line.find('\n'));
  return name.empty() ? "an unknown process" : name;
}

}  // namespace

DirectoryLock::DirectoryLock(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / ".lock";
  constexpr int kTries = 20;
  constexpr std::chrono::milliseconds kPause(50);
  for (int i = 0;; ++i) {
    // A FIFO of that name must not make open() wait.
    file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
    SSA_CHECK(file_ >= 0, path.string(), ": cannot create: ", std::strerror(errno));
    const int error = ::flock(file_, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    if (error == 0) break;
    if (error == ENOLCK || error == EOPNOTSUPP || error == EINVAL || error == ENOSYS) {
      warning_ = concat(path.string(), ": this file system has no locks (", std::strerror(error),
                        "): a second process in this directory is not refused");
      return;
    }
    const std::string holder = first_line(file_);
    ::close(std::exchange(file_, -1));
    if (error != EWOULDBLOCK && error != EINTR) fail(path.string(), ": cannot lock: ", std::strerror(error));
    if (i == kTries)
      fail_usage(directory.string(), ": in use by ", holder, "; expected no other process to write here");
    std::this_thread::sleep_for(kPause);
  }
  const std::string name = own_name() + "\n";
  if (::ftruncate(file_, 0) != 0 || ::pwrite(file_, name.data(), name.size(), 0) != static_cast<ssize_t>(name.size()))
    warning_ = concat(path.string(), ": cannot write the name of this process: ", std::strerror(errno));
}

// The file is emptied but not removed: on NFS another host might still hold the removed file open, and lock that one.
DirectoryLock::~DirectoryLock() {
  if (file_ < 0) return;
  static_cast<void>(!::ftruncate(file_, 0));
  ::close(file_);
}

DirectoryLock::DirectoryLock(DirectoryLock&& other) noexcept { *this = std::move(other); }

DirectoryLock& DirectoryLock::operator=(DirectoryLock&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(warning_, other.warning_);
  return *this;
}

}  // namespace ssa
