#include "ssa/base/program.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>

#include "ssa/base/error.h"

namespace ssa {

void open_standard_files() {
  for (const int wanted : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(wanted, F_GETFD) >= 0 || errno != EBADF) continue;
    const int file = ::open("/dev/null", wanted == STDIN_FILENO ? O_RDONLY : O_WRONLY);
    if (file < 0 || file == wanted) continue;
    ::dup2(file, wanted);
    ::close(file);
  }
}

void finish_output() {
  errno = 0;
  std::cout.flush();
  const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0 && !std::cout.bad();
  if (written || errno == EPIPE) return;
  if (errno != 0) fail("standard output: cannot write: ", std::strerror(errno));
  fail("standard output: some of it could not be written, as on a full disk");
}

}  // namespace ssa
