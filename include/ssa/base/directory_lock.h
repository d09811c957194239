// DirectoryLock: one process at a time writes into a directory. A second one is refused with the host, process id and
// start time of the first.
//
// The lock is flock() on DIR/.lock, which stays in the directory, empty. The kernel releases the lock when the process
// ends, however it ends: the file of a dead process locks nothing. On other file systems than local ones:
//   - NFS: since Linux 2.6.12 flock() is sent to the server as a byte-range lock, so hosts exclude each other. The
//     server drops the lock of a host that is gone after its lease (NFSv4, 90 seconds by default) or when the host is
//     up again (NFSv3). Mounts with nolock or local_lock=flock exclude processes of one host only, without a warning.
//   - Lustre: only with the mount option flock (localflock: per host); otherwise as a file system without locks.
//   - A file system without locks (ENOLCK, EOPNOTSUPP, EINVAL, ENOSYS) gives no protection: warning() says so.
#pragma once

#include <filesystem>
#include <string>

namespace ssa {

class DirectoryLock {
 public:
  DirectoryLock() = default;
  /// Takes the lock; the directory exists. UsageError if another process has it. Error if DIR/.lock cannot be written.
  /// A process that was just killed may take a moment to release it: the lock is tried for one second.
  explicit DirectoryLock(const std::filesystem::path& directory);
  ~DirectoryLock();
  DirectoryLock(DirectoryLock&& other) noexcept;
  DirectoryLock& operator=(DirectoryLock&& other) noexcept;

  /// Empty, or why the file system gives no protection.
  const std::string& warning() const { return warning_; }

 private:
  int file_ = -1;
  std::string warning_;
};

}  // namespace ssa
