#include "ssa/comm/watchdog.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ssa/base/error.h"
#include "ssa/comm/comm.h"

namespace ssa {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point time) { return std::chrono::duration<double>(Clock::now() - time).count(); }

const char* name_of(Phase phase) {
  switch (phase) {
    case Phase::start: return "start";
    case Phase::step: return "step";
    case Phase::save: return "save";
    case Phase::evaluation: return "evaluation";
  }
  return "?";
}

/// The config key of a phase's time-out.
const char* key_of(Phase phase) {
  switch (phase) {
    case Phase::start: return "distributed.start_timeout_seconds";
    case Phase::step: return "distributed.timeout_seconds";
    case Phase::save: return "distributed.save_timeout_seconds";
    case Phase::evaluation: return "distributed.eval_timeout_seconds";
  }
  return "?";
}

/// What this rank is doing: written by the main thread, read by the watchdog's.
struct Activity {
  std::atomic<int> phase{static_cast<int>(Phase::start)};
  std::atomic<std::int64_t> step{0};
  std::atomic<std::uint64_t> progress{0}, calls{0};
  std::atomic<const char*> call{nullptr};
};
Activity activity;

/// One message, the same size in both directions. All ranks run the same binary.
struct Message {
  enum Kind : std::int32_t { alive, good_bye, abort };
  std::uint64_t token;
  std::int32_t kind, rank, phase;
  std::int64_t step;
  std::uint64_t progress, calls;
  char call[32], host[64];
  char text[1024];  ///< of abort: why
};

void copy_text(char* to, std::size_t size, const std::string& from) {
  const std::size_t count = std::min(size - 1, from.size());
  std::memcpy(to, from.data(), count);
  to[count] = 0;
}

std::string host_name() {
  char host[64] = "";
  ::gethostname(host, sizeof host - 1);
  return host;
}

Message own_message(Message::Kind kind, std::uint64_t token, int rank) {
  Message m{};
  m.token = token, m.kind = kind, m.rank = rank;
  m.phase = activity.phase, m.step = activity.step;
  m.progress = activity.progress, m.calls = activity.calls;
  if (const char* call = activity.call) copy_text(m.call, sizeof m.call, call);
  copy_text(m.host, sizeof m.host, host_name());
  return m;
}

/// Prints one line and ends this process. Not MPI_Abort: MPI may be what hangs, and the launcher ends the other ranks
/// of a job when one exits with an error.
[[noreturn]] void end_process(const std::string& line) {
  if (!line.empty()) {
    const std::string text = "error: " + line + "\n";
    static_cast<void>(!::write(STDERR_FILENO, text.data(), text.size()));
  }
  ::_exit(kExitFailed);
}

/// A connection that never blocks the watchdog: what the system does not take or give at once waits.
class Connection {
 public:
  explicit Connection(int fd = -1) : fd_(fd) {
    if (fd_ < 0) return;
    ::fcntl(fd_, F_SETFL, ::fcntl(fd_, F_GETFL) | O_NONBLOCK);
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  ~Connection() { close(); }
  Connection(Connection&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), in_(std::move(other.in_)), out_(std::move(other.out_)) {}
  Connection& operator=(Connection&& other) noexcept {
    std::swap(fd_, other.fd_), in_.swap(other.in_), out_.swap(other.out_);
    return *this;
  }

  bool is_open() const { return fd_ >= 0; }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  void send(const Message& message) {
    if (fd_ < 0 || out_.size() > 64 * sizeof message) return;  // a peer that reads nothing gets no more
    const char* bytes = reinterpret_cast<const char*>(&message);
    out_.insert(out_.end(), bytes, bytes + sizeof message);
    flush();
  }
  void flush() {
    while (fd_ >= 0 && !out_.empty()) {
      const ssize_t taken = ::send(fd_, out_.data(), out_.size(), MSG_NOSIGNAL);
      if (taken < 0) {
        if (errno != EAGAIN && errno != EINTR) close();
        return;
      }
      out_.erase(out_.begin(), out_.begin() + taken);
    }
  }
  /// The next whole message, if there is one. Closes the connection when the peer has.
  bool receive(Message& message) {
    char buffer[4096];
    while (fd_ >= 0 && in_.size() < sizeof message) {
      const ssize_t got = ::recv(fd_, buffer, sizeof buffer, 0);
      if (got > 0) {
        in_.insert(in_.end(), buffer, buffer + got);
      } else {
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) close();
        break;
      }
    }
    if (in_.size() < sizeof message) return false;
    std::memcpy(&message, in_.data(), sizeof message);
    in_.erase(in_.begin(), in_.begin() + sizeof message);
    return true;
  }

 private:
  int fd_;
  std::vector<char> in_, out_;
};

/// The IPv4 addresses of this machine, those of other machines' networks first.
std::vector<std::uint32_t> own_addresses() {
  std::vector<std::uint32_t> addresses;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) == 0)
    for (const ifaddrs* i = list; i; i = i->ifa_next)
      if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET && !(i->ifa_flags & IFF_LOOPBACK))
        addresses.push_back(reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr.s_addr);
  ::freeifaddrs(list);
  addresses.push_back(htonl(INADDR_LOOPBACK));
  return addresses;
}

/// Where rank 0 listens, as it is sent to the others.
struct Address {
  std::uint64_t token = 0;
  std::uint32_t hosts[15] = {};
  std::uint16_t host_count = 0, port = 0;
  char host[64] = {};
};

int connect_to(const Address& to) {
  const bool same_machine = host_name() == to.host;
  for (int i = 0; i < to.host_count; ++i) {
    if ((to.hosts[i] == htonl(INADDR_LOOPBACK)) != same_machine) continue;
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) continue;
    sockaddr_in address{};
    address.sin_family = AF_INET, address.sin_port = to.port, address.sin_addr.s_addr = to.hosts[i];
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 && errno != EINPROGRESS) {
      ::close(fd);
      continue;
    }
    pollfd wait{fd, POLLOUT, 0};
    int error = ETIMEDOUT;
    socklen_t size = sizeof error;
    if (::poll(&wait, 1, 2000) == 1) ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error == 0) return fd;
    ::close(fd);
  }
  return -1;
}

/// What rank 0 knows of a rank.
struct Seen {
  Connection connection;
  Message last{};
  Clock::time_point heard, advanced;  ///< the last message; the last one with progress
  bool ended = false;                 ///< said good-bye
};

std::string doing(const Message& m) {
  const std::string phase = fmt::format("{} {}", name_of(static_cast<Phase>(m.phase)), m.step);
  return m.call[0] ? fmt::format("in {} (call {}) of {}", m.call, m.calls, phase)
                   : fmt::format("outside communication after call {}, in {}", m.calls, phase);
}

class Watchdog {
 public:
  Watchdog(Comm& comm, const WatchdogTimeouts& timeouts)
      : rank_(comm.rank()), size_(comm.size()), timeouts_(timeouts), silent_since_(Clock::now()) {
    Address address;
    if (rank_ == 0) address = listen();
    Stream host(DeviceKind::cpu);
    comm.broadcast(host, Tensor(&address, DType::u8, {static_cast<std::int64_t>(sizeof address)}), 0);
    token_ = address.token;
    if (rank_ == 0) {
      seen_.resize(static_cast<std::size_t>(size_));
      for (Seen& seen : seen_) seen.heard = seen.advanced = Clock::now();
    } else {
      to_root_ = Connection(connect_to(address));
      connected_ = to_root_.is_open();
      copy_text(root_.host, sizeof root_.host, address.host);
      to_root_.send(own_message(Message::alive, token_, rank_));
      if (!connected_)
        std::fprintf(stderr, "warning: rank %d: the watchdog of rank 0 on %s cannot be reached\n", rank_, address.host);
    }
    // Signals are for the main thread.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { run(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
    if (listener_ >= 0) ::close(listener_);
  }

 private:
  static constexpr double kInterval = 1, kSilent = 3 * kInterval, kDeathGrace = 15;

  double timeout(int phase) const {
    switch (static_cast<Phase>(phase)) {
      case Phase::start: return timeouts_.start;
      case Phase::step: return timeouts_.step;
      case Phase::save: return timeouts_.save;
      case Phase::evaluation: return timeouts_.evaluation;
    }
    return timeouts_.step;
  }

  Address listen() {
    Address address;
    std::random_device random;
    address.token = static_cast<std::uint64_t>(random()) << 32 | random();
    copy_text(address.host, sizeof address.host, host_name());
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockaddr_in any{};
    any.sin_family = AF_INET, any.sin_addr.s_addr = htonl(INADDR_ANY);
    socklen_t size = sizeof any;
    if (listener_ < 0 || ::bind(listener_, reinterpret_cast<sockaddr*>(&any), sizeof any) != 0 ||
        ::listen(listener_, std::min(size_ + 16, 4096)) != 0 ||
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&any), &size) != 0) {
      std::fprintf(stderr, "warning: the watchdog cannot listen: %s\n", std::strerror(errno));
      return address;
    }
    address.port = any.sin_port;
    for (const std::uint32_t host : own_addresses())
      if (address.host_count < std::size(address.hosts)) address.hosts[address.host_count++] = host;
    return address;
  }

  void run() {
    auto last = Clock::now();
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, std::chrono::duration<double>(kInterval), [&] { return stop_; })) {
      // This process was suspended: the others may have been too, so that no time-out counts from before.
      if (seconds_since(last) > 5 * kInterval) forgive();
      last = Clock::now();
      rank_ == 0 ? watch() : report();
    }
    if (rank_ == 0) return;
    to_root_.send(own_message(Message::good_bye, token_, rank_));
  }

  void forgive() {
    silent_since_ = advanced_ = Clock::now();
    for (Seen& seen : seen_) seen.heard = seen.advanced = Clock::now();
  }

  /// Rank 0: hears the others and decides.
  void watch() {
    for (int fd; (fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) strangers_.emplace_back(fd);
    Message m;
    for (Connection& stranger : strangers_) {
      if (!stranger.receive(m)) continue;
      if (m.token != token_ || m.rank <= 0 || m.rank >= size_) {
        stranger.close();
        continue;
      }
      seen_[static_cast<std::size_t>(m.rank)].connection = std::move(stranger);
      note(m);
    }
    std::erase_if(strangers_, [](const Connection& c) { return !c.is_open(); });
    for (Seen& seen : seen_)
      while (seen.connection.receive(m))
        if (m.token == token_) note(m);
    note(own_message(Message::alive, token_, 0));
    for (Seen& seen : seen_) seen.connection.send(own_message(Message::alive, token_, 0));
    decide();
  }

  void note(const Message& m) {
    Seen& seen = seen_[static_cast<std::size_t>(m.rank)];
    const bool advanced = m.progress != seen.last.progress || m.phase != seen.last.phase || seen.last.host[0] == 0;
    seen.heard = Clock::now();
    if (advanced) seen.advanced = seen.heard;
    seen.last = m;
    if (m.kind == Message::good_bye) seen.ended = true;
  }

  void decide() {
    std::string missing;
    const auto add = [&](int rank, const std::string& why) {
      const Message& m = seen_[static_cast<std::size_t>(rank)].last;
      missing += fmt::format("{}rank {}{} {}, last {}", missing.empty() ? "" : "; ", rank,
                             m.host[0] ? fmt::format(" on {}", m.host) : "", why, doing(m));
    };
    const char* key = nullptr;
    double limit = 0;
    for (int rank = 1; rank < size_; ++rank) {
      const Seen& seen = seen_[static_cast<std::size_t>(rank)];
      if (seen.ended) continue;
      const double silent = seconds_since(seen.heard);
      if (silent > timeout(seen.last.phase)) {
        add(rank, fmt::format("does not answer for {:.0f} s", silent));
        key = key_of(static_cast<Phase>(seen.last.phase)), limit = timeout(seen.last.phase);
      } else if (seen.last.host[0] && !seen.connection.is_open() && silent > kDeathGrace) {
        add(rank, fmt::format("is gone for {:.0f} s", silent));
      }
    }
    if (missing.empty()) {
      // Those that have begun the fewest calls are what the others wait for.
      double waited = 0;
      std::uint64_t fewest = ~std::uint64_t{0};
      for (const Seen& seen : seen_) {
        if (seen.ended) continue;
        fewest = std::min(fewest, seen.last.calls);
        const double idle = seconds_since(seen.advanced);
        if (idle > timeout(seen.last.phase) && idle > waited) {
          waited = idle;
          key = key_of(static_cast<Phase>(seen.last.phase)), limit = timeout(seen.last.phase);
        }
      }
      if (waited == 0) return;
      for (int rank = 0; rank < size_; ++rank) {
        const Seen& seen = seen_[static_cast<std::size_t>(rank)];
        if (!seen.ended && seen.last.calls == fewest)
          add(rank, seconds_since(seen.heard) > kSilent
                        ? fmt::format("does not answer for {:.0f} s", seconds_since(seen.heard))
                        : fmt::format("makes no progress for {:.0f} s", seconds_since(seen.advanced)));
      }
    }
    std::string line = "the job is ended: " + missing;
    if (key) line += fmt::format("; {} is {:g}", key, limit);
    Message m = own_message(Message::abort, token_, 0);
    copy_text(m.text, sizeof m.text, line);
    for (Seen& seen : seen_) seen.connection.send(m);
    end_process(line);
  }

  /// The other ranks: tell rank 0, and hear whether it lives.
  void report() {
    to_root_.send(own_message(Message::alive, token_, rank_));
    Message m;
    while (to_root_.receive(m)) {
      if (m.token != token_) continue;
      if (m.kind == Message::abort) end_process("");  // rank 0 has printed why
      silent_since_ = Clock::now();
      root_ = m;
    }
    const std::uint64_t progress = activity.progress;
    if (progress != progress_) progress_ = progress, advanced_ = Clock::now();
    // Rank 0 decides. Without it every rank does for itself; the first one prints, the others a little later.
    const double limit = timeout(activity.phase) + kStagger * std::min(rank_ - 1, 20);
    const double silent = seconds_since(silent_since_), idle = seconds_since(advanced_);
    if (connected_ ? silent > limit : idle > limit)
      end_process(connected_ ? fmt::format("the job is ended: rank 0 on {} does not answer for {:.0f} s, last {}",
                                           root_.host, silent, doing(root_))
                             : fmt::format("the job is ended: rank {} makes no progress for {:.0f} s, last {}", rank_,
                                           idle, doing(own_message(Message::alive, token_, rank_))));
  }
  static constexpr double kStagger = 0.3;

  int rank_, size_;
  WatchdogTimeouts timeouts_;
  std::uint64_t token_ = 0;
  // Rank 0.
  int listener_ = -1;
  std::vector<Connection> strangers_;  ///< that have not said which rank they are
  std::vector<Seen> seen_;
  // The other ranks.
  Connection to_root_;
  bool connected_ = false;
  Message root_{};
  Clock::time_point silent_since_, advanced_ = Clock::now();
  std::uint64_t progress_ = 0;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

std::unique_ptr<Watchdog> watchdog;

int number_in(std::initializer_list<const char*> variables) {
  for (const char* variable : variables)
    if (const char* text = std::getenv(variable)) return std::atoi(text);
  return -1;
}

}  // namespace

void start_watchdog(Comm& comm, const WatchdogTimeouts& timeouts) {
  if (comm.size() > 1) watchdog = std::make_unique<Watchdog>(comm, timeouts);
}

void stop_watchdog() { watchdog.reset(); }

void watchdog_phase(Phase phase, std::int64_t step) {
  activity.phase = static_cast<int>(phase);
  activity.step = step;
  ++activity.progress;
}

WatchedCall::WatchedCall(const char* name) {
  activity.call = name;
  ++activity.calls;
  ++activity.progress;
}

WatchedCall::~WatchedCall() {
  activity.call = nullptr;
  ++activity.progress;
}

// ---- the start of MPI ----

/// Each rank of a machine has a file in /dev/shm while it waits, named after the job and the local rank.
struct StartGuard::State {
  std::string what, prefix;
  int local_rank = -1, local_size = 0;
  double seconds = 0;
  std::mutex mutex;
  std::condition_variable wake;
  bool done = false;
  std::thread thread;

  std::string file_of(int rank) const { return fmt::format("{}{}", prefix, rank); }

  void run() {
    std::unique_lock lock(mutex);
    if (wake.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return done; })) return;
    std::string missing;
    int count = 0;
    for (int rank = 0; rank < local_size; ++rank)
      if (!std::filesystem::exists(file_of(rank))) missing += (count++ ? ", " : "") + std::to_string(rank);
    ::unlink(file_of(local_rank).c_str());
    const std::string who = count == 0   ? std::string("no rank of this machine is missing: look at the other machines")
                            : count == 1 ? fmt::format("local rank {} is missing", missing)
                                         : fmt::format("local ranks {} are missing", missing);
    end_process(
        fmt::format("the job is ended: {} did not start on all ranks within {:g} s; on {}, {}; "
                    "distributed.start_timeout_seconds is {:g}",
                    what, seconds, host_name(), who, seconds));
  }
};

StartGuard::StartGuard(double seconds, const char* what) {
  const char* job = std::getenv("PMIX_NAMESPACE");
  if (!job) job = std::getenv("SLURM_JOB_ID");
  auto state = std::make_unique<State>();
  state->what = what;
  state->prefix = fmt::format("/dev/shm/ssa-start.{}.{}.{}.", ::getuid(), job ? job : "0",
                              what == std::string("MPI") ? "mpi" : "run");
  state->local_rank = std::max(number_in({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"}), 0);
  state->local_size = number_in({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"});
  state->seconds = seconds;
  if (FILE* file = std::fopen(state->file_of(state->local_rank).c_str(), "w")) std::fclose(file);
  state->thread = std::thread([s = state.get()] { s->run(); });
  state_ = state.release();
}

StartGuard::~StartGuard() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->done = true;
  }
  state_->wake.notify_all();
  state_->thread.join();
  ::unlink(state_->file_of(state_->local_rank).c_str());
  delete state_;
}

}  // namespace ssa
