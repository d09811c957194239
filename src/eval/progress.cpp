#include "ssa/eval/progress.h"

#include <fmt/format.h>

#include <utility>

namespace ssa::eval {

Progress::Progress(const Comm& comm, std::string what, std::int64_t total)
    : what_(std::move(what)), total_(total), line_(comm.rank() != 0 || what_.empty()) {}

void Progress::at(std::int64_t done) {
  if (done > 0 && line_.due())
    line_.show(fmt::format("{}: batch {} of {}, {:.0f} s", what_, done, total_, line_.seconds()));
}

}  // namespace ssa::eval
