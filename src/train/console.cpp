#include "src/train/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace ssa {
namespace {

constexpr const char* kClearLine = "\r\033[K";
constexpr int kUsualColumns = 80;

}  // namespace

int terminal_columns() {
  const char* terminal = std::getenv("TERM");
  if (isatty(STDOUT_FILENO) == 0 || std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) return 0;
  if (terminal == nullptr || std::string_view(terminal) == "dumb") return 0;
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsualColumns;
}

void Console::show_step(const std::string& text) {
  const std::lock_guard lock(mutex_);
  if (columns_ == 0) {
    std::fprintf(stdout, "%s\n", text.c_str());
  } else {
    // The last column stays empty: some terminals start a new line when it is written.
    const std::string shown = text.substr(0, static_cast<std::size_t>(columns_ - 1));
    std::fprintf(stdout, "%s%s", kClearLine, shown.c_str());
    step_shown_ = true;
  }
  std::fflush(stdout);
}

void Console::sink_it_(const spdlog::details::log_msg& message) {
  if (step_shown_) std::fputc('\n', stdout);
  step_shown_ = false;
  std::fprintf(stdout, "%.*s\n", static_cast<int>(message.payload.size()), message.payload.data());
}

void Console::flush_() { std::fflush(stdout); }

}  // namespace ssa
