#include "ssa/comm/watchdog.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "end_process.h"
#include "heartbeat_socket.h"
#include "rank_table.h"
#include "ssa/base/seconds_since.h"
#include "ssa/comm/comm.h"

namespace ssa {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/// A thread that has not run for so many heartbeats was suspended, perhaps with all other ranks, or had no processor.
/// That time does not count.
constexpr int kSuspended = 2;
/// To reach rank 0 at the start.
constexpr milliseconds kConnectLimit(5000);

/// If rank 0 does not answer, rank 1 ends the job. Each other rank waits longer than a launcher takes to end it (Open
/// MPI: SIGKILL after a second), and a little longer than the rank before, so that only one of them prints.
double extra_seconds(int rank) { return rank <= 1 ? 0.0 : 2.0 + 0.15 * std::min(rank - 2, 30); }

class Watchdog {
 public:
  /// A collective.
  Watchdog(Comm& comm, const PhaseTimeouts& timeouts)
      : rank_(comm.rank()),
        timeouts_(timeouts),
        interval_(std::chrono::ceil<milliseconds>(std::chrono::duration<double>(timeouts.interval()))),
        table_(comm.size(), timeouts) {
    exchange_addresses(comm);
    last_progress_ = own(Heartbeat::alive);
    advanced_ = root_heard_ = Clock::now();
    // Signals are for the main thread.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { run(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    warn_of_unreachable(comm);
  }
  ~Watchdog() {
    stop_ = true;
    wake();
    thread_.join();
    ::close(wake_);
  }

  /// Sends a heartbeat now. A save may take less than a second: without this, a rank that stops in it would be reported
  /// in the step before.
  void new_phase() {
    new_phase_ = true;
    wake();
  }

 private:
  void exchange_addresses(Comm& comm) {
    struct {
      std::uint64_t job = 0, count = 0;
      std::array<sockaddr_in, 16> addresses{};
    } root;
    if (rank_ == 0) {
      std::random_device random;
      root.job = static_cast<std::uint64_t>(random()) << 32 | random();
      const std::vector<sockaddr_in> own_addresses = socket_.addresses();
      root.count = std::min(own_addresses.size(), root.addresses.size());
      std::copy_n(own_addresses.end() - static_cast<std::ptrdiff_t>(root.count), root.count, root.addresses.begin());
    }
    Stream host(DeviceKind::cpu);
    comm.broadcast(host, Tensor(&root, DType::u8, {static_cast<std::int64_t>(sizeof root)}), 0);
    job_ = root.job;
    if (rank_ == 0)
      peers_.resize(static_cast<std::size_t>(comm.size()));
    else
      peers_.assign(root.addresses.begin(), root.addresses.begin() + static_cast<std::ptrdiff_t>(root.count));
  }

  void warn_of_unreachable(Comm& comm) {
    const auto limit = Clock::now() + kConnectLimit;
    while (rank_ != 0 && !connected_ && Clock::now() < limit) std::this_thread::sleep_for(milliseconds(1));
    std::uint8_t reached = rank_ == 0 || connected_;
    std::vector<std::uint8_t> all(static_cast<std::size_t>(comm.size()));
    Stream host(DeviceKind::cpu);
    comm.all_gather(host, Tensor(&reached, DType::u8, {1}), Tensor(all.data(), DType::u8, {comm.size()}));
    std::string unreachable;
    for (std::size_t i = 0; i < all.size(); ++i)
      if (!all[i]) unreachable += concat(" ", i);
    if (rank_ == 0 && !unreachable.empty())
      std::fprintf(stderr, "warning: no UDP between rank 0 and rank%s: a rank that stops there may not be noticed\n",
                   unreachable.c_str());
  }

  void run() {
    pthread_setname_np(pthread_self(), "watchdog");  // for debuggers, top -H and perf
    Clock::time_point next = Clock::now(), last = next;
    while (!stop_) {
      const Clock::time_point now = Clock::now();
      if (now - last > kSuspended * interval_) leave_out(last + interval_, now);
      last = now;
      Heartbeat heartbeat;
      sockaddr_in from{};
      while (socket_.receive(job_, heartbeat, from))
        rank_ == 0 ? hear_rank(heartbeat, from) : hear_root(heartbeat, from);
      const bool new_phase = new_phase_.exchange(false);
      if (new_phase && rank_ == 0) send_all(Heartbeat::answer);
      if (new_phase || Clock::now() >= next) {
        rank_ == 0 ? judge_all() : report();
        next = Clock::now() + interval_;
      }
      pollfd files[] = {{socket_.file(), POLLIN, 0}, {wake_, POLLIN, 0}};
      const auto left = std::chrono::ceil<milliseconds>(next - Clock::now());
      ::poll(files, std::size(files), static_cast<int>(std::max(left, milliseconds(0)).count()));
      eventfd_t ignored;
      ::eventfd_read(wake_, &ignored);
    }
  }
  void wake() const { ::eventfd_write(wake_, 1); }

  Heartbeat own(Heartbeat::Kind kind) const { return current_heartbeat(job_, rank_, kind); }

  void leave_out(Clock::time_point begin, Clock::time_point end) {
    table_.leave_out(begin, end);
    advanced_ += end - begin;
    root_heard_ += end - begin;
  }

  // Rank 0.

  void send_all(Heartbeat::Kind kind) const {
    for (const sockaddr_in& peer : peers_)
      if (peer.sin_port != 0) socket_.send(own(kind), peer);
  }

  void hear_rank(const Heartbeat& heartbeat, const sockaddr_in& from) {
    if (heartbeat.rank <= 0 || static_cast<std::size_t>(heartbeat.rank) >= peers_.size()) return;
    peers_[static_cast<std::size_t>(heartbeat.rank)] = from;
    table_.note(heartbeat, Clock::now());
    socket_.send(own(Heartbeat::answer), from);
  }

  void judge_all() {
    table_.note(own(Heartbeat::alive), Clock::now());
    const std::string verdict = table_.verdict(Clock::now());
    if (verdict.empty()) return;
    print_error(verdict);
    for (int i = 0; i < 3; ++i) {  // a datagram may be lost
      send_all(Heartbeat::abort);
      std::this_thread::sleep_for(milliseconds(50));
    }
    end_process(kExitFailed);
  }

  // The other ranks.

  void hear_root(const Heartbeat& heartbeat, const sockaddr_in& from) {
    if (heartbeat.kind == Heartbeat::abort) end_process(kExitFailed);  // rank 0 has printed the reason
    root_ = heartbeat;
    root_heard_ = Clock::now();
    peers_.assign(1, from);
    connected_ = true;
  }

  void report() {
    const Heartbeat now = own(Heartbeat::alive);
    for (const sockaddr_in& peer : peers_) socket_.send(now, peer);
    if (!now.same_state(last_progress_)) advanced_ = Clock::now(), last_progress_ = now;
    const double silent = seconds_since(root_heard_), idle = seconds_since(advanced_);
    if (connected_ && silent > timeouts_.step + extra_seconds(rank_))
      print_error(kVerdict + silent_rank_text(root_, silent) + timeout_text(Phase::step, timeouts_));
    else if (!connected_ && idle > timeouts_.of(now.phase) + extra_seconds(rank_))
      print_error(kVerdict + idle_rank_text(now, idle) + timeout_text(now.phase, timeouts_));
    else
      return;
    end_process(kExitFailed);
  }

  const int rank_;
  const PhaseTimeouts timeouts_;
  const milliseconds interval_;  ///< between two heartbeats
  HeartbeatSocket socket_;
  std::uint64_t job_ = 0;
  /// On rank 0: where each rank's heartbeats come from, port 0 before the first. On the others: where rank 0 may be;
  /// after its first answer, where it is.
  std::vector<sockaddr_in> peers_;

  RankTable table_;  ///< of rank 0

  // Of the other ranks.
  Heartbeat root_, last_progress_;
  Clock::time_point root_heard_, advanced_;
  std::atomic<bool> connected_{false};  ///< rank 0 has answered

  int wake_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  std::atomic<bool> stop_{false}, new_phase_{false};
  std::thread thread_;
};

/// Of this process. The main thread makes and ends it.
std::unique_ptr<Watchdog> watchdog;

}  // namespace

void start_watchdog(Comm& comm, const PhaseTimeouts& timeouts) {
  if (comm.size() > 1 && !watchdog) watchdog = std::make_unique<Watchdog>(comm, timeouts);
}

void stop_watchdog() { watchdog.reset(); }

void enter_phase(Phase phase, std::int64_t step) {
  if (note_phase(phase, step) && watchdog) watchdog->new_phase();
}

}  // namespace ssa
