// DirectoryLock: one process at a time writes into a directory. A second one is refused with the host, the process id and
// the start time of the first.
//
// The lock is flock() on DIR/.lock. The kernel releases it when the process ends, however it ends: a file that a killed
// process left is no lock. Linux passes flock() on to the server of an NFS mount, so that hosts exclude each other too. A file system
// that has no locks (ENOLCK, EOPNOTSUPP, EINVAL) gives no protection: the holder is told so.
#pragma once

#include <filesystem>
#include <string>

namespace ssa {

class DirectoryLock {
 public:
  DirectoryLock() = default;
  /// Takes the lock; the directory exists. UsageError if another process holds it. Error if DIR/.lock cannot be written.
  /// A process that was just killed may take a moment to release it: the lock is tried for one second.
  explicit DirectoryLock(const std::filesystem::path& directory);
  ~DirectoryLock();
  DirectoryLock(DirectoryLock&& other) noexcept;
  DirectoryLock& operator=(DirectoryLock&& other) noexcept;

  /// Empty, or why the file system gives no protection.
  const std::string& warning() const { return warning_; }

 private:
  std::filesystem::path path_;
  int file_ = -1;
  std::string warning_;
};

}  // namespace ssa
