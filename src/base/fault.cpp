#include "ssa/base/fault.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "ssa/base/error.h"
#include "ssa/base/or_list.h"

namespace ssa {

bool faults_are_armed = false;

namespace {

template <class Value, std::size_t N>
using Names = std::array<std::pair<std::string_view, Value>, N>;

constexpr Names<FaultKind, 7> kKinds = {{{"kill", FaultKind::kill},
                                         {"stop", FaultKind::stop},
                                         {"nan", FaultKind::nan},
                                         {"slow", FaultKind::slow},
                                         {"enospc", FaultKind::enospc},
                                         {"read", FaultKind::read},
                                         {"bitflip", FaultKind::bitflip}}};
constexpr Names<FaultPlace, 4> kPlaces = {
    {{"start", FaultPlace::start}, {"step", FaultPlace::step}, {"save", FaultPlace::save}, {"eval", FaultPlace::eval}}};
constexpr std::int64_t kLargestNumber = 1'000'000'000'000;
constexpr double kLongestSleep = 1e6;  // seconds

/// "kill, stop or nan"
template <class List>
std::string names_of(const List& list) {
  std::vector<std::string_view> names;
  for (const auto& entry : list) names.push_back(entry.first);
  return or_list(names);
}

/// What is read of one fault; errors begin with it.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Fault parse() const {
    const std::size_t at = text_.find('@');
    if (at == std::string_view::npos) fail("expected KIND@PLACE:NUMBER, as in kill@step:7,rank:1");
    Fault fault;
    fault.text = text_;
    fault.kind = choose(kKinds, "kind", text_.substr(0, at));
    std::string_view rest = text_.substr(at + 1);
    const std::string_view place = take(rest);
    const std::size_t colon = place.find(':');
    fault.place = choose(kPlaces, "place", place.substr(0, colon));
    const bool numbered = colon != std::string_view::npos;
    if (numbered != (fault.place != FaultPlace::start))
      fail(numbered ? "start has a number" : "the place has no number", ", expected start, step:N, save:N or eval:N");
    if (numbered) fault.number = integer("the number of the place", place.substr(colon + 1), 1);
    if (text_.ends_with(',')) fail("expected KEY:VALUE after the last comma");
    while (!rest.empty()) set_key(fault, take(rest));
    check_place(fault);
    return fault;
  }

 private:
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    fail_usage("SSA_FAULT: ", text_, ": ", parts...);
  }

  /// Removes the text up to the next comma.
  static std::string_view take(std::string_view& rest) {
    const std::size_t comma = rest.find(',');
    const std::string_view first = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    return first;
  }

  template <class Value, std::size_t N>
  Value choose(const Names<Value, N>& names, const char* what, std::string_view name) const {
    for (const auto& [known, value] : names)
      if (known == name) return value;
    fail("unknown ", what, " \"", name, "\", expected ", names_of(names));
  }

  std::int64_t integer(const char* what, std::string_view digits, std::int64_t least) const {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size() || value < least || value > kLargestNumber)
      fail(what, " is \"", digits, "\", expected an integer from ", least, " to ", kLargestNumber);
    return value;
  }

  void set_key(Fault& fault, std::string_view item) const {
    const std::size_t colon = item.find(':');
    const std::string_view key = item.substr(0, colon);
    const std::string_view value = colon == std::string_view::npos ? std::string_view() : item.substr(colon + 1);
    if (key == "rank") {
      fault.rank = integer("rank", value, 0);
    } else if (key == "operation") {
      fault.operation = integer("operation", value, 1);
    } else if (key == "bit" && fault.kind == FaultKind::bitflip) {
      fault.bit = integer("bit", value, 0);
    } else if (key == "seconds" && fault.kind == FaultKind::slow) {
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), fault.seconds);
      const bool fits = error == std::errc() && end == value.data() + value.size() && fault.seconds > 0;
      if (!fits || fault.seconds > kLongestSleep)
        fail("seconds is \"", value, "\", expected a number above 0, up to ", kLongestSleep);
    } else {
      fail("unknown key \"", key, "\", expected rank, operation, seconds (slow) or bit (bitflip)");
    }
  }

  void check_place(const Fault& fault) const {
    if (fault.kind == FaultKind::nan && fault.place != FaultPlace::step) fail("nan happens in a step, expected step:N");
    if (fault.kind == FaultKind::bitflip && fault.place != FaultPlace::save)
      fail("bitflip happens in a save, expected save:N");
    if (fault.kind == FaultKind::slow && fault.place != FaultPlace::save && fault.operation > 0)
      fail("slow counts the syncs of a save, expected no operation");
  }

  std::string_view text_;
};

struct Armed {
  Fault fault;
  std::int64_t seen = 0;  ///< operations of its kind at its place
  bool done = false;
};

std::mutex mutex;  ///< an asynchronous checkpoint is written by a second thread
std::vector<Armed> armed;
std::vector<std::string> all_texts;
int own_rank = 0;
std::int64_t saves = 0, evaluations = 0;

struct Position {
  FaultPlace place;
  std::int64_t number;
};
thread_local std::optional<Position> position;

bool is_here(const Fault& fault) {
  const Position here = position.value_or(Position{FaultPlace::save, saves});
  return fault.place == here.place && fault.number == here.number;
}

bool counts(FaultKind kind, FaultOperation operation) {
  switch (kind) {
    case FaultKind::kill:
    case FaultKind::stop: return true;
    case FaultKind::nan: return operation == FaultOperation::gradient;
    case FaultKind::slow: return operation == FaultOperation::sync;
    case FaultKind::enospc: return operation == FaultOperation::write;
    case FaultKind::read: return operation == FaultOperation::read;
    case FaultKind::bitflip: return operation == FaultOperation::close;
  }
  return false;
}

/// Says what happens and does what happens to the process itself. Called without the mutex: another thread continues
/// while this one sleeps.
void happen(const Fault& fault, const std::string& where = "") {
  const std::string line = concat("SSA_FAULT: rank ", own_rank, ": ", fault.text, where, "\n");
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, line.data(), line.size());
  if (fault.kind == FaultKind::kill) ::kill(::getpid(), SIGKILL);
  if (fault.kind == FaultKind::stop) ::kill(::getpid(), SIGSTOP);
  if (fault.kind == FaultKind::slow) std::this_thread::sleep_for(std::chrono::duration<double>(fault.seconds));
}

/// Counts the operation and makes the fault happen that is due, if there is one.
std::optional<Fault> hit(FaultOperation operation, const std::string& where = "") {
  std::optional<Fault> found;
  {
    const std::lock_guard lock(mutex);
    for (Armed& one : armed) {
      if (one.done || !counts(one.fault.kind, operation) || !is_here(one.fault)) continue;
      ++one.seen;
      if (found || one.seen < std::max<std::int64_t>(one.fault.operation, 1)) continue;
      one.done = true;
      found = one.fault;
    }
  }
  if (found) happen(*found, where);
  return found;
}

/// Without `operation` these happen when their place begins.
bool happens_on_entry(const Fault& fault) {
  const bool process = fault.kind == FaultKind::kill || fault.kind == FaultKind::stop;
  return fault.operation == 0 && (process || (fault.kind == FaultKind::slow && fault.place != FaultPlace::save));
}

void flip_bit(const std::filesystem::path& path, std::int64_t bit) {
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  struct stat info {};
  if (file >= 0 && ::fstat(file, &info) == 0 && info.st_size > 0) {
    const std::int64_t bits = info.st_size * 8, chosen = bit >= 0 ? bit % bits : bits / 2;
    unsigned char byte = 0;
    if (::pread(file, &byte, 1, chosen / 8) == 1) {
      byte = static_cast<unsigned char>(byte ^ 1u << chosen % 8);
      [[maybe_unused]] const ssize_t ignored = ::pwrite(file, &byte, 1, chosen / 8);
    }
  }
  if (file >= 0) ::close(file);
}

}  // namespace

std::vector<Fault> parse_faults(std::string_view text) {
  std::vector<Fault> faults;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(';'), text.size());
    std::string_view one = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    while (one.starts_with(' ')) one.remove_prefix(1);
    while (one.ends_with(' ')) one.remove_suffix(1);
    if (!one.empty()) faults.push_back(Parser(one).parse());
  }
  return faults;
}

void arm_faults(int rank) {
  const char* text = std::getenv("SSA_FAULT");
  const std::vector<Fault> faults = parse_faults(text ? text : "");
  const std::lock_guard lock(mutex);
  armed.clear();
  all_texts.clear();
  own_rank = rank;
  saves = evaluations = 0;
  position.reset();
  for (const Fault& fault : faults) {
    all_texts.push_back(fault.text);
    if (fault.rank < 0 || fault.rank == rank) armed.push_back({.fault = fault});
  }
  faults_are_armed = !armed.empty();
}

std::vector<std::string> armed_faults() { return all_texts; }

namespace fault_detail {

void enter(FaultPlace place, std::int64_t step) {
  std::unique_lock lock(mutex);
  std::int64_t number = place == FaultPlace::step ? step : 1;
  if (place == FaultPlace::save) number = ++saves;
  if (place == FaultPlace::eval) number = ++evaluations;
  position = {place, number};
  std::vector<Fault> now;
  for (Armed& one : armed) {
    if (one.done || !is_here(one.fault) || !happens_on_entry(one.fault)) continue;
    one.done = true;
    now.push_back(one.fault);
  }
  lock.unlock();
  for (const Fault& fault : now) happen(fault);
}

bool hits(FaultOperation operation) {
  const std::optional<Fault> fault = hit(operation);
  return fault && (fault->kind == FaultKind::nan || fault->kind == FaultKind::enospc || fault->kind == FaultKind::read);
}

void closed(const std::filesystem::path& path) {
  const std::optional<Fault> fault = hit(FaultOperation::close, concat(": ", path.string()));
  if (fault && fault->kind == FaultKind::bitflip) flip_bit(path, fault->bit);
}

}  // namespace fault_detail
}  // namespace ssa
