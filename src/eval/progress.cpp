#include "ssa/eval/progress.h"

#include <cstdio>
#include <utility>

namespace ssa::eval {

Progress::Progress(const Comm& comm, std::string what, std::int64_t total)
    : what_(std::move(what)), total_(total), quiet_(comm.rank() != 0 || what_.empty()) {}

void Progress::at(std::int64_t done) {
  constexpr auto kInterval = std::chrono::seconds(10);
  const auto now = Clock::now();
  if (quiet_ || done == 0 || now - said_ < kInterval) return;
  said_ = now;
  std::fprintf(stderr, "%s: batch %lld of %lld, %.0f s\n", what_.c_str(), static_cast<long long>(done),
               static_cast<long long>(total_), std::chrono::duration<double>(now - begun_).count());
}

}  // namespace ssa::eval
