#include "ssa/base/directory_lock.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <optional>
#include <thread>

#include "support/catch.h"
#include "support/error_of.h"
#include "support/forked.h"
#include "support/temp_dir.h"

using ssa::DirectoryLock;
using ssa::test::check_error;
using ssa::test::error_of;
using ssa::test::TempDir;

TEST_CASE("directory lock: a second holder is refused and told who holds it") {
  const TempDir dir;
  std::optional<DirectoryLock> first(DirectoryLock(dir.path()));
  CHECK(first->warning().empty());
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  check_error(error_of([&] { DirectoryLock second(dir.path()); }), dir.path().string(),
              "in use by host " + std::string(host) + ", process " + std::to_string(getpid()) + ", since 20");
  first.reset();
  CHECK_NOTHROW(DirectoryLock(dir.path()));
}

TEST_CASE("directory lock: a killed holder leaves no stale lock") {
  const TempDir dir;
  const pid_t child = fork();
  if (child == 0) {
    DirectoryLock lock(dir.path());
    for (;;) pause();
  }
  while (!std::filesystem::exists(dir.path() / ".lock") || std::filesystem::file_size(dir.path() / ".lock") == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  check_error(error_of([&] { DirectoryLock second(dir.path()); }), "process " + std::to_string(child));
  // Taken as soon as the holder is gone, without a hand.
  kill(child, SIGKILL);
  CHECK_NOTHROW(DirectoryLock(dir.path()));
  waitpid(child, nullptr, 0);
}

TEST_CASE("directory lock: what cannot be a lock file is an error that names it") {
  const TempDir dir;
  std::filesystem::create_directory(dir.path() / ".lock");
  check_error(error_of([&] { DirectoryLock lock(dir.path()); }), ".lock", "Is a directory");
}
