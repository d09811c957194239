#include "ssa/eval/progress.h"

#include <fmt/core.h>

#include <cstdio>
#include <utility>

namespace ssa::eval {

Progress::Progress(const Comm& comm, std::string what, std::int64_t total)
    : what_(std::move(what)), total_(total), quiet_(comm.rank() != 0 || what_.empty()) {}

void Progress::at(std::int64_t done) {
  constexpr auto kInterval = std::chrono::seconds(10);
  const auto now = Clock::now();
  if (quiet_ || done == 0 || now - last_print_ < kInterval) return;
  last_print_ = now;
  fmt::print(stderr, "{}: batch {} of {}, {:.0f} s\n", what_, done, total_,
             std::chrono::duration<double>(now - start_).count());
}

}  // namespace ssa::eval
