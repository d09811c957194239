#include "end_process.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

namespace ssa {
namespace {

std::mutex mutex;
std::map<const void*, std::function<void()>> abort_actions;
std::atomic<bool> ending{false};

}  // namespace

void set_abort_action(const void* owner, std::function<void()> action) {
  const std::lock_guard lock(mutex);
  if (action)
    abort_actions[owner] = std::move(action);
  else
    abort_actions.erase(owner);
}

void print_error(const std::string& line) {
  const std::string text = "error: " + line + "\n";
  static_cast<void>(!::write(STDERR_FILENO, text.data(), text.size()));
}

void end_process(int exit_code) {
  ending = true;
  // On a separate thread, because it may hang in a lock of NCCL or in the driver.
  const auto done = std::make_shared<std::promise<void>>();
  try {
    std::thread([done] {
      const std::lock_guard lock(mutex);
      for (const auto& [owner, action] : abort_actions) action();
      done->set_value();
    }).detach();
    done->get_future().wait_for(std::chrono::seconds(3));
  } catch (const std::system_error&) {  // no thread: nothing is aborted
  }
  ::_exit(exit_code);
}

void wait_if_ending() {
  while (ending) std::this_thread::sleep_for(std::chrono::seconds(1));
}

}  // namespace ssa
