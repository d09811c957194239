#include "data_tools/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <system_error>

#include "ssa/base/error.h"

namespace ssa {

Interrupt::Interrupt() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  SSA_CHECK(event_.get() >= 0, "eventfd: ", std::generic_category().message(errno));
}

// Fails only if the event is raised already.
void Interrupt::raise() noexcept { static_cast<void>(::eventfd_write(event_.get(), 1)); }

bool wait_for_bytes(int descriptor, const Interrupt* interrupt, int milliseconds) {
  pollfd files[] = {{descriptor, POLLIN, 0}, {interrupt ? interrupt->descriptor() : -1, POLLIN, 0}};
  int ready;
  do ready = ::poll(files, 2, milliseconds);
  while (ready < 0 && errno == EINTR);
  SSA_CHECK(ready >= 0, "poll: ", std::generic_category().message(errno));
  if (files[1].revents != 0) throw Interrupted();
  return ready > 0;
}

}  // namespace ssa
