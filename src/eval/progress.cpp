#include "ssa/eval/progress.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

namespace ssa::eval {
namespace {

/// 29300 is "29,300".
std::string grouped(std::int64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3; at -= 3) text.insert(at - 3, 1, ',');
  return text;
}

std::string rate_text(std::int64_t tokens, double seconds) {
  return fmt::format("{} tokens/s", grouped(std::llround(static_cast<double>(tokens) / seconds)));
}

}  // namespace

std::string progress_text(const std::string& what, std::int64_t batch, std::int64_t batches, std::int64_t tokens,
                          std::int64_t done, std::int64_t total, double seconds) {
  std::string text = fmt::format("{}: batch {} of {}", what, batch, batches);
  if (tokens > 0 && seconds > 0) text += fmt::format(", {}", rate_text(tokens, seconds));
  if (done > 0)
    text +=
        fmt::format(", {} left", clock_text(seconds * static_cast<double>(total - done) / static_cast<double>(done)));
  return text;
}

std::string speed_text(const std::string& what, std::int64_t tokens, double seconds) {
  return fmt::format("{}: {} tokens in {:.1f} s, {}", what, grouped(tokens), seconds, rate_text(tokens, seconds));
}

Progress::Progress(const Comm& comm, std::string what, std::int64_t batches, std::int64_t tokens)
    : what_(std::move(what)),
      batches_(batches),
      tokens_(tokens),
      quiet_(comm.rank() != 0 || what_.empty()),
      line_(quiet_) {}

void Progress::at(std::int64_t batch, std::int64_t tokens) {
  if (batch == 0 || !line_.due()) return;
  const bool by_tokens = tokens_ > 0;
  line_.show(progress_text(what_, batch, batches_, tokens, by_tokens ? tokens : batch, by_tokens ? tokens_ : batches_,
                           line_.seconds()));
}

void Progress::done() {
  line_.clear();
  const double seconds = line_.seconds();
  if (!quiet_ && tokens_ > 0 && seconds > 0) fmt::print(stderr, "{}\n", speed_text(what_, tokens_, seconds));
}

}  // namespace ssa::eval
