// Ends another thread's wait for input.
#pragma once

#include "ssa/base/descriptor.h"

namespace ssa {

/// The wait for input was interrupted. Not an Error: nothing is wrong with the input.
struct Interrupted {};

class Interrupt {
 public:
  Interrupt();  ///< Throws Error if the process cannot open another file.

  /// Ends every wait, those that begin later too. Any thread may call it.
  void raise() noexcept;

  int descriptor() const { return event_.get(); }

 private:
  Descriptor event_;  // readable once raised
};

/// Waits until read() of `descriptor` would return bytes or the end at once, for at most `milliseconds`; -1 is no
/// limit. False if the time is over. Throws Interrupted when `interrupt`, which may be null, is raised.
bool wait_for_bytes(int descriptor, const Interrupt* interrupt, int milliseconds);

}  // namespace ssa
