#include "ssa/base/program.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

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

}  // namespace ssa
